"""The LV2 bundle: valid, and in a host what the package makes of the same audio."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import ddsp_la2a as la
from ddsp_la2a.cli import command
from ddsp_la2a.controls import Control
from ddsp_la2a.export import lv2
from ddsp_la2a.export.description import Description, describe
from ddsp_la2a.model.grey_box import GreyBox

RATE = 48000
HOSTILE = 'x" ; a <b> . \\ \n@prefix ../../ é'
PACKAGES = {
    "faust": "faust",
    "c++": "g++",
    "lv2_validate": "lv2-dev",
    "sord_validate": "sordi",
    "lv2apply": "lilv-utils",
}


def needs(*commands: str) -> None:
    for name in commands:
        if shutil.which(name) is None:
            pytest.skip(
                f"expected the command {name}, but it isn't installed; on Debian: apt-get install {PACKAGES[name]}"
            )
    if not any(Path(folder, "lv2/core/lv2.h").is_file() for folder in ("/usr/include", "/usr/local/include")):
        pytest.skip("expected LV2's headers, but they aren't installed; on Debian: apt-get install lv2-dev")


def bundle_of(description: Description, folder: Path, channels: int = 1) -> Path:
    (bundle,) = lv2.write_lv2(description, folder, channels)
    return bundle


def applied(bundle: Path, uri: str, x: np.ndarray, folder: Path, **controls: float) -> np.ndarray:
    """Audio ``(channels, time)`` through the plug-in in a host."""
    source, target = folder / "in.wav", folder / "out.wav"
    soundfile.write(source, x.T.astype(np.float32), RATE, "FLOAT")
    positions = [part for name, value in controls.items() for part in ("-c", name, repr(value))]
    words = ["lv2apply", "-i", str(source), "-o", str(target), *positions, uri]
    environment = {"LV2_PATH": f"{bundle.parent}:/usr/lib/lv2", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return soundfile.read(target, dtype="float64", always_2d=True)[0].T


def programme(channels: int) -> np.ndarray:
    """Notes, a burst, silence."""
    rng, t = np.random.default_rng(0), np.arange(RATE) / RATE
    x = 0.6 * np.sin(2.0 * np.pi * 220.0 * t) * np.exp(-4.0 * (t % 0.3))
    x[20000:22000] = rng.uniform(-0.9, 0.9, 2000)
    x[30000:36000] = 0.0
    return np.stack([x, 0.5 * np.roll(x, 4000)])[:channels].astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("exportable", ["hardware", "feedback+shelf", "cell"], indirect=True)
def test_in_a_host_it_is_the_model(exportable: GreyBox, tmp_path: Path, channels: int) -> None:
    needs("faust", "c++", "lv2apply")
    described, x = describe(exportable, "My Unit"), programme(channels)
    bundle = bundle_of(described, tmp_path, channels)
    for switch in (0, 1):
        for knob in (20.0, 65.0, 90.0):
            uri, at = lv2.uri_of(described, channels), {"compress_or_limit": switch, "peak_reduction": knob}
            found = applied(bundle, uri, x, tmp_path, **at)
            expected = exportable.stream(RATE, channels=channels, **at).process(x.astype(np.float64))
            assert np.abs(found - np.atleast_2d(expected)).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
def test_it_is_valid_and_says_what_it_is(tmp_path: Path, channels: int) -> None:
    needs("faust", "c++", "lv2_validate", "sord_validate", "lv2apply")
    described = replace(describe(la.load("published"), HOSTILE), info={"source": HOSTILE})
    bundle = bundle_of(described, tmp_path, channels)
    assert sorted(path.suffix for path in bundle.iterdir()) == sorted([".dsp", ".so", ".ttl", ".ttl"])
    words = ["lv2_validate", *map(str, sorted(bundle.glob("*.ttl")))]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Found 0 errors" in ran.stdout + ran.stderr
    environment = {"LV2_PATH": f"{bundle.parent}:/usr/lib/lv2", "PATH": "/usr/bin:/bin"}
    words = ["lv2info", lv2.uri_of(described, channels)]
    told = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60, check=True).stdout
    for text in ("Has latency:       yes", "peak_reduction", "gain_reduction", "Compressor"):
        assert text in told


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lv2.shutil, "which", lambda name: None if name == "faust" else f"/usr/bin/{name}")
    arguments = ["export", "published", "--to", "lv2", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(command, arguments)
    assert str(ran.exception) == (
        "faust: expected this command, which makes the plug-in, got none; on Debian: apt-get install faust"
    )
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(lv2.shutil, "which", lambda name: None if name == "c++" else f"/usr/bin/{name}")
    monkeypatch.delenv("CXX", raising=False)
    ran = CliRunner().invoke(command, arguments)
    assert str(ran.exception).startswith("c++: expected this command")
    assert str(ran.exception).endswith("apt-get install g++")


def test_missing_headers_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "model.cpp:3:10: fatal error: lv2/core/lv2.h: No such file or directory"

    def refuse(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", said)

    monkeypatch.setattr(lv2.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(lv2.subprocess, "run", refuse)
    described = describe(la.load("published"), "m")
    with pytest.raises(ValueError, match=r"^lv2/core/lv2.h: expected LV2's headers, got none; .*install lv2-dev$"):
        lv2.write_lv2(described, tmp_path)
    said = "model.dsp : 3 : ERROR : syntax error"
    with pytest.raises(
        ValueError, match=r"^faust: expected it to take the exported source, got: model.dsp : 3 : ERROR"
    ):
        lv2.write_lv2(described, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_uri_is_that_of_the_model() -> None:
    described = describe(la.load("published"), "m")
    uri = lv2.uri_of(described, 1)
    assert uri == lv2.uri_of(describe(la.load("published"), "m"), 1)
    moved = {
        name: [[value * (1.0 + 1e-13) for value in row] for row in rows] for name, rows in described.curves.items()
    }
    assert uri == lv2.uri_of(replace(described, curves=moved), 1)
    others = [
        lv2.uri_of(described, 2),
        lv2.uri_of(replace(described, name="n"), 1),
        lv2.uri_of(replace(described, constants={**described.constants, "knee_db": 3.0}), 1),
        lv2.uri_of(replace(described, name=HOSTILE), 1),
    ]
    assert len({uri, *others}) == 5
    assert all(set(other) <= set("abcdefghijklmnopqrstuvwxyz0123456789:-") for other in (uri, *others))


def test_ports_of_other_units_have_symbols_that_lv2_takes() -> None:
    described = describe(la.load("published"), "m")
    knob, switch = Control("latency", -1.0, 3.0), Control("größe", 1.0, 3.0, "switch")
    default = {"latency": 0.0, "größe": 2.0}
    ports = lv2.ports_of(replace(described, knob=knob, switch=switch, default=default), 2)
    assert [port.index for port in ports] == list(range(8))
    symbols = ["in_left", "in_right", "out_left", "out_right", "knob", "switch", "gain_reduction", "latency"]
    assert [port.symbol for port in ports] == symbols
    assert ports[5].facts[0] == "lv2:default 2.0"
    assert ports[5].facts[-1] == "lv2:portProperty lv2:integer"
    (only,) = [p for p in lv2.ports_of(replace(described, switch=None), 1) if not p.is_audio and not p.is_output]
    assert only.symbol == "peak_reduction"
