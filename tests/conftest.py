"""Recordings of a compressor whose parameters are known, shared by the tests of everything above the signal path."""

from __future__ import annotations

import importlib.util
import itertools
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from commands import Ran

import ddsp_la2a as la
from baselines.numpy_compressor import compressor
from baselines.numpy_stages import StagedReference, staged_compressor
from ddsp_la2a import cli
from ddsp_la2a.data.cache import FOLDER_VARIABLE
from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.model.control_net import ControlNet
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.stages import PLAIN, CellStages
from ddsp_la2a.model.stages import Stages as ModelStages
from ddsp_la2a.model.taper import Taper

RATE = 8000
"""Low, so that a hundred steps of a fit take a second; the parameters are times and levels, at home at any rate."""

TRUTH: dict[tuple[int, int], dict[str, float]] = {
    (0, 50): {"threshold_db": -22.0, "ratio": 3.0, "knee_db": 8.0, "attack_ms": 8.0, "release_ms": 150.0},
    (1, 65): {"threshold_db": -30.0, "ratio": 6.0, "knee_db": 4.0, "attack_ms": 4.0, "release_ms": 250.0},
    (1, 80): {"threshold_db": -34.0, "ratio": 7.0, "knee_db": 4.0, "attack_ms": 3.0, "release_ms": 300.0},
}
MAKEUP_DB = 2.0

_NUMBERS = itertools.count()


STRIP = (la.Control("speed", 1.0, 3.0, "switch"), la.Control("drive", 0.0, 10.0), la.Control("ratio"))
"""Controls of another unit: a switch of three positions and two knobs, one called like a parameter."""


class KnownStrip:
    """A unit whose threshold hangs on one knob, its ratio on another and its release on a switch."""

    controls = STRIP

    def parameters(self, speed: int, drive: float, ratio: float) -> dict[str, float]:
        return {
            "threshold_db": -15.0 - 2.0 * drive,
            "ratio": 2.0 * 4.0**ratio,
            "knee_db": 6.0,
            "attack_ms": 5.0,
            "release_ms": (80.0, 320.0, 160.0)[speed - 1],
            "makeup_db": 3.0,
        }

    def process(self, audio: np.ndarray, sample_rate: float, **positions: float) -> np.ndarray:
        params = la.CompressorParams(**self.parameters(**positions))
        return la.compressor(torch.from_numpy(audio)[None], params, sample_rate)[0].numpy()

    def record(self, folder: Path, settings: Sequence[tuple[int, float, float]], seconds: float = 3.0) -> pd.DataFrame:
        """A frame of one's own: no more columns than are needed, and ``start_frame`` nowhere."""
        rows = []
        for number, setting in enumerate(settings):
            raw = programme_of(500 + number, seconds)
            positions = dict(zip((control.name for control in STRIP), setting, strict=True))
            paths = folder / f"dry {number}.wav", folder / f"wet {number}.wav"
            soundfile.write(paths[0], raw, RATE, "FLOAT")
            soundfile.write(paths[1], self.process(raw, RATE, **positions), RATE, "FLOAT")
            rows.append({"raw_audio_path": paths[0], "processed_audio_path": paths[1], "device": "strip", **positions})
        return pd.DataFrame(rows)


STAGE_NUMBERS: dict[str, dict[str, float]] = {
    "slow": {"slow_factor": 12.0, "slow_mix": 0.4},
    "shelf": {"shelf_db": 9.0, "shelf_hz": 2500.0},
    "feedback": {},
    "filter": {},
}
FILTER = (0.02, -0.15, 0.36, -0.1, -0.86)
"""An output filter as one was fitted to a recording at 44.1 kHz."""


@dataclass(frozen=True)
class Stages:
    """Some of a compressor's four stages switched on, for the package and for the oracle alike."""

    on: tuple[str, ...]

    @property
    def numbers(self) -> dict[str, float]:
        return {name: value for stage in self.on for name, value in STAGE_NUMBERS[stage].items()}

    @property
    def feedback(self) -> bool:
        return "feedback" in self.on

    @property
    def coefficients(self) -> torch.Tensor | None:
        return torch.tensor(FILTER, dtype=torch.float64) if "filter" in self.on else None

    def params(
        self, setting: dict[str, Any], rate: float, coefficients: torch.Tensor | None = None
    ) -> CompressorParams:
        """Those of a compressor; the setting may hold the stages' numbers, too."""
        given = self.coefficients if coefficients is None else coefficients
        kept = None if given is None else OutputFilter(given, rate)
        return CompressorParams(**self.numbers | setting, feedback=self.feedback, output_filter=kept)

    def oracle(self, x: np.ndarray, rate: float, setting: dict[str, Any], state: float = 1.0) -> StagedReference:
        more: dict[str, Any] = {"output_coefficients": FILTER} if "filter" in self.on else {}
        more |= {name: value for name, value in setting.items() if name == "output_coefficients"}
        return staged_compressor(x, rate, **self.numbers | setting | more, feedback=self.feedback, state=state)


def combinations_of_stages() -> list[tuple[str, ...]]:
    return [on for count in range(5) for on in itertools.combinations(STAGE_NUMBERS, count)]


class KnownUnit:
    """The compressor behind the recordings, as a model: float32 as in the files, so that its error is nothing."""

    def process(
        self, audio: np.ndarray, sample_rate: float, *, compress_or_limit: int, peak_reduction: int
    ) -> np.ndarray:
        parameters = TRUTH[compress_or_limit, peak_reduction]
        return compressor(audio, sample_rate, **parameters, makeup_db=MAKEUP_DB).output.astype(np.float32)


def programme_of(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Noise in passages of an eighth of a second between −50 and −14 dBFS, float32."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * rate)
    passage = rate // 8
    level_db = np.repeat(rng.uniform(-40.0, -4.0, frames // passage + 1), passage)[:frames]
    noise = rng.standard_normal(frames).clip(-3.0, 3.0)
    return (0.3 * noise * 10.0 ** (level_db / 20.0)).astype(np.float32)


def write_pair(
    root: Path,
    split: str,
    track_id: int,
    setting: tuple[int, int],
    seconds: float,
    *,
    take: str = "3c",
    gain_db: float = 0.0,
    truth: tuple[int, int] | None = None,
) -> None:
    """One recording in a tree shaped like SignalTrain's, in float32: nothing is lost between the unit and the file."""
    (root / split).mkdir(parents=True, exist_ok=True)
    raw = programme_of(track_id, seconds)
    switch, knob = truth or setting
    target = KnownUnit().process(raw, RATE, compress_or_limit=switch, peak_reduction=knob) * 10.0 ** (gain_db / 20.0)
    soundfile.write(root / split / f"input_{track_id}_.wav", raw, RATE, "FLOAT")
    name = f"target_{track_id}_LA2A_{take}__{setting[0]}__{setting[1]}.wav"
    soundfile.write(root / split / name, target.astype(np.float32), RATE, "FLOAT")


@pytest.fixture(params=combinations_of_stages(), ids=lambda on: "+".join(on) or "plain")
def stages(request: pytest.FixtureRequest) -> Stages:
    """Every combination of a compressor's stages, one after the other; by ``indirect`` those a test names."""
    return Stages(request.param)


@pytest.fixture(scope="session", autouse=True)
def _nobodys_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what fixtures of modules and the session check: never the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Also where a shell started the tests in the background, whose programs it tells to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was found out about files in another test isn't known; a folder that isn't there yet."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_NUMBERS)}"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="session")
def truth() -> dict[tuple[int, int], dict[str, float]]:
    """Parameters of the unit by setting; its make-up is ``makeup_db`` of the fixture of that name."""
    return TRUTH


@pytest.fixture(scope="session")
def makeup_db() -> float:
    return MAKEUP_DB


@pytest.fixture(scope="session")
def known_unit() -> KnownUnit:
    return KnownUnit()


@pytest.fixture(scope="session")
def strip() -> KnownStrip:
    return KnownStrip()


@pytest.fixture(scope="session")
def strip_frame(strip: KnownStrip, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A grid of settings of the strip but for the middle of each switch position. Read only."""
    grid = itertools.product((1, 2, 3), (1.0, 5.0, 9.0), (0.1, 0.5, 0.9))
    settings = [setting for setting in grid if setting[1:] != (5.0, 0.5)]
    return strip.record(tmp_path_factory.mktemp("strip"), settings)


@pytest.fixture(scope="session")
def programme() -> Callable[..., np.ndarray]:
    return programme_of


@pytest.fixture(scope="session")
def record() -> Callable[..., None]:
    return write_pair


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings to fit, one of them to watch, and to score one that was fitted and one that was not. Read only."""
    root = tmp_path_factory.mktemp("tree") / "SignalTrain-shaped"
    write_pair(root, "Train", 101, (0, 50), 4.0)
    write_pair(root, "Train", 102, (1, 65), 4.0)
    write_pair(root, "Val", 111, (1, 65), 3.0)
    write_pair(root, "Test", 121, (0, 50), 3.0)
    write_pair(root, "Test", 122, (1, 80), 3.0)
    return root


@pytest.fixture
def frame(recordings: Path) -> pd.DataFrame:
    return la.index(recordings)


@pytest.fixture(scope="session")
def quick() -> Callable[..., AdamSettings]:
    """How to train when a second has to do."""

    def settings(max_steps: int = 20, **more: object) -> AdamSettings:
        return AdamSettings(**{"max_steps": max_steps, "learning_rate": 0.1, "weight_prior_s": 0.0, **more})

    return settings


@pytest.fixture
def one_thread() -> Iterator[None]:
    """No pool of threads: on small arrays they cost more than they give when tests share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_recordings() -> Callable[[str], Path]:
    """Folder of real recordings by name; skips where they aren't beside the checkout."""

    def folder(name: str) -> Path:
        path = Path(__file__).parents[2] / "shared" / "audio" / name
        if not path.is_dir():
            pytest.skip(f"no real recordings here: expected them at {path}")
        return path

    return folder


@pytest.fixture(scope="session")
def lv2_device() -> ModuleType:
    """``benchmarks/lv2_device.py``; the benchmarks aren't installed with the package."""
    path = Path(__file__).parents[1] / "benchmarks" / "lv2_device.py"
    if not path.is_file():
        pytest.skip(f"not a checkout: expected {path}")
    spec = importlib.util.spec_from_file_location("lv2_device", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exportable_models() -> dict[str, GreyBox]:
    """Both families with and without their stages, whose parameters hang on knob and switch."""
    generator = torch.Generator().manual_seed(3)
    all_on = ModelStages(shelf=True, feedback=True)
    boxes = {
        "plain": GreyBox(ControlNet(seed=1), stages=PLAIN),
        "hardware": GreyBox(ControlNet(seed=1), stages=ModelStages()),
        "feedback+shelf": GreyBox(ControlNet(seed=1), stages=all_on),
        "cell": GreyBox(Taper(), stages=CellStages()),
        "cell without traps": GreyBox(Taper(), stages=CellStages(output_filter=False, traps=False)),
    }
    for box in boxes.values():
        with torch.no_grad():
            for weight in box.parameters():
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            if box.stages.output_filter:
                taps = zip(box.device_parameters[-len(FILTER) :], FILTER, strict=True)
                box.device[-len(FILTER) :] = torch.stack(
                    [tap.to_unconstrained(torch.tensor(value, dtype=torch.float64)) for tap, value in taps]
                )
    return boxes


@pytest.fixture(params=["plain", "hardware", "feedback+shelf", "cell", "cell without traps"])
def exportable(request: pytest.FixtureRequest) -> GreyBox:
    """A model of one knob and one switch."""
    return exportable_models()[request.param]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """``ddsp-la2a …`` in this process and an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ddsp-la2a", *map(str, arguments)])
        status = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run
