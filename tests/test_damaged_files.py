"""Files that are damaged or hostile: refused with their name and the reason, or read as what they are."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save as to_bytes

import ddsp_la2a as la
from ddsp_la2a.controls import Control, unique
from ddsp_la2a.data.audio import audio_info, read_audio, read_blocks
from ddsp_la2a.data.wav_header import header_faults
from ddsp_la2a.model.control_net import ControlNet, ParameterTable, count_inputs
from ddsp_la2a.model.taper import Taper, count_weights
from ddsp_la2a.model.tensor_file import content_hash, read_tensors, write_tensors

ROOT = Path(__file__).parents[1]
RATE, FRAMES = 44100, 3000
NOISE = 0.2 * np.random.default_rng(0).standard_normal(FRAMES).clip(-4, 4)


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``benchmarks.damaged_files``, which isn't installed with the package."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip(f"not a checkout: expected {ROOT / 'benchmarks'}")
    monkeypatch.syspath_prepend(ROOT)
    return import_module("benchmarks.damaged_files")


# Sound


def write(path: Path, subtype: str = "PCM_16", audio: np.ndarray = NOISE, **how: str) -> bytearray:
    soundfile.write(path, audio, RATE, subtype, **how)
    return bytearray(path.read_bytes())


def put(path: Path, data: bytearray, at: int, value: int, form: str = "<I") -> None:
    changed = data.copy()
    struct.pack_into(form, changed, at, value)
    path.write_bytes(changed)


def refuse(path: Path, reason: str) -> None:
    """Every way to read a file refuses it, in one line that begins with its name."""
    for read in (audio_info, read_audio, lambda p: [*read_blocks(p, 0, 10, 5)]):
        with pytest.raises(ValueError, match=reason) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: expected")
        assert "\n" not in str(caught.value)


def test_damaged_sound_is_refused_or_read_as_it_was(damaged: Any, tmp_path: Path) -> None:
    found = Counter(outcome for _, outcome, _, _ in damaged.wav_cases(500, tmp_path, seed=1))
    assert found.keys() == {"refused", "right"}
    assert found["refused"] > 250 < found.total()


def test_every_bit_of_a_header(damaged: Any, tmp_path: Path) -> None:
    wav = damaged.damaged_wav
    files = wav.originals()
    for name in ("16 bits", "extensible, float"):
        for bit in range(8 * files[name].header):
            data = bytearray(files[name].data)
            data[bit // 8] ^= 1 << bit % 8
            assert wav.outcome(files[name], bytes(data), tmp_path / "f.wav")[0] in ("refused", "right"), (name, bit)


def test_sound_files_as_they_should_be_are_read(damaged: Any, tmp_path: Path) -> None:
    for name, original in damaged.damaged_wav.originals().items():
        assert damaged.damaged_wav.outcome(original, original.data, tmp_path / "f.wav")[0] == "right", name


@pytest.mark.parametrize("ending", ["flac", "aiff", "caf", "w64", "au"])
def test_other_formats_are_left_to_libsndfile(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"f.{ending}"
    write(path)
    assert header_faults(path) == []
    assert audio_info(path).frames == len(read_audio(path)[0]) == FRAMES


@pytest.mark.parametrize(
    ("at", "form", "value", "reason"),
    [
        (4, "<I", 10**6, None),  # libsndfile goes by the chunks, and the data's is right
        (16, "<I", 14, "got"),
        (20, "<H", 7, "encoding 7"),
        (20, "<H", 2, "encoding 2"),
        (20, "<H", 3, "encoding 3 of 16 bits"),
        (22, "<H", 2, "2 channels"),
        (24, "<I", 48000, "48000 Hz"),
        (28, "<I", 88201, "88201 a second"),
        (32, "<H", 4, "4 bytes a frame"),
        (34, "<H", 24, "24 bits"),
        (36, "<I", 0x60746164, "one fmt, then one data"),
        (40, "<I", 2 * FRAMES - 2, "no chunk"),
        (40, "<I", 2 * FRAMES - 1, "2 a frame"),
        (40, "<I", 2 * FRAMES + 2, "missing"),
        (40, "<I", 0, "never finished"),
    ],
)
def test_one_wrong_field_is_named(at: int, form: str, value: int, reason: str | None, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    put(path, write(path), at, value, form)
    if reason is None:
        assert audio_info(path).frames == FRAMES
    else:
        refuse(path, reason)


@pytest.mark.parametrize(("subtype", "other"), [("FLOAT", 1), ("PCM_32", 3)])
def test_integers_and_floats_are_told_apart_by_the_sound(subtype: str, other: int, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    put(path, write(path, subtype), 20, other, "<H")
    refuse(path, "float")


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(
    "audio",
    [0.0 * NOISE, 0.5 * np.sign(NOISE), 0.3 + 0.0 * NOISE, 1e-9 * NOISE, 1e-6 * NOISE, 0.99 * np.sign(NOISE)],
    ids=["silence", "square", "constant", "hardly anything", "quiet", "loud square"],
)
def test_odd_sounds_are_sounds(subtype: str, audio: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    write(path, subtype, audio)
    assert audio_info(path).frames == FRAMES


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_left_to_check(value: float, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    write(path, "FLOAT", np.full(FRAMES, value))
    assert not np.isfinite(read_audio(path)[0]).any()


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_an_unfinished_recording_is_read_to_its_end(riff: int, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    data = write(path)
    struct.pack_into("<I", data, 4, riff)
    put(path, data, 40, 0xFFFFFFFF)
    assert audio_info(path).frames == len(read_audio(path)[0]) == FRAMES


@pytest.mark.parametrize("rest", [b"\0" * 100, b"TAG" + b"x" * 125, b"no chunk"])
def test_what_stands_behind_the_end_that_the_file_itself_names_is_no_sound(rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    path.write_bytes(write(path) + rest)
    assert audio_info(path).frames == FRAMES


def test_a_chunk_among_the_samples_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    data = write(path) + b"LIST" + struct.pack("<I", 24) + b"INFOISFT" + struct.pack("<I", 12) + b"an editor 2\0"
    struct.pack_into("<I", data, 4, len(data) - 8)
    put(path, data, 40, 2 * FRAMES)
    assert audio_info(path).frames == FRAMES
    for swallowed in (32, 12):  # all of it, and so much that what is left looks like one
        put(path, data, 40, 2 * FRAMES + swallowed)
        refuse(path, "another chunk among them")


def test_a_missing_byte_between_chunks_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    data = write(path)
    data[36:36] = b"note" + struct.pack("<I", 3) + b"abc"
    struct.pack_into("<I", data, 4, len(data) - 8)
    path.write_bytes(data)
    try:
        np.testing.assert_array_equal(read_audio(path)[0], np.float32(soundfile.read(path)[0]))
        assert audio_info(path).frames == FRAMES
    except ValueError as error:  # where libsndfile can't, nothing is read at all
        assert str(error).startswith(f"{path}: expected")  # noqa: PT017 - either is right


def test_thousands_of_chunks_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 0) + b"WAVE" + (b"note" + struct.pack("<I", 0)) * 10**6)
    refuse(path, "one fmt, then one data")


@pytest.mark.parametrize("rate", [8, 999, 10_000_001, 500_000_000])
def test_no_rate_is_beyond_reason(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    soundfile.write(path, NOISE, rate, "PCM_16")
    refuse(path, f"expected 1000 to 10000000 Hz, got {rate} Hz")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "pipe.wav")
    refuse(tmp_path / "pipe.wav", "a pipe")


def test_blocks_are_of_one_channel_and_within_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    write(path, audio=np.stack([NOISE, NOISE], 1))
    with pytest.raises(ValueError, match="expected one channel"):
        list(read_blocks(path, 0, 10, 5))
    write(path)
    with pytest.raises(ValueError, match=f"within 0 to {FRAMES}"):
        list(read_blocks(path, 0, FRAMES + 1, 5))


def test_a_header_is_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "f.wav"
    data = write(path)
    os.utime(path, (10**9, 10**9))
    assert audio_info(path).frames == audio_info(path).frames == FRAMES  # remembered now
    put(path, data, 24, 48000)
    refuse(path, "48000 Hz")


# Models


def test_damaged_and_hostile_models_are_refused_or_what_they_say(damaged: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a table warns of positions beyond it
        cases = [*damaged.model_cases(504, tmp_path, seed=1)]
    found = Counter(outcome if outcome != "slow" else "refused" for _, outcome, _, _ in cases)  # machines differ
    assert found.keys() == {"refused", "as it says"}
    assert found["refused"] > 400


def test_what_is_no_file_is_refused(damaged: Any, tmp_path: Path) -> None:
    for path in damaged.damaged_models.special_files(tmp_path):
        with pytest.raises(FileNotFoundError, match="got no file"):
            la.load(path)
        with pytest.raises(ValueError, match="something else"):
            read_tensors(path, "checkpoint", (1,))


@pytest.fixture
def box() -> la.GreyBox:
    return la.GreyBox(ControlNet(seed=1), {"settings_seen": [[0, 40]]})


STAGES = {"output_filter": False, "slow_release": False, "shelf": False, "feedback": False}


def forge(path: Path, box: la.GreyBox, description: dict[str, Any], **tensors: torch.Tensor) -> None:
    held = {name: tensor.detach().contiguous() for name, tensor in (box.state_dict() | tensors).items()}
    plain = {
        "format_version": 3,
        "family": "compressor",
        "controls": [control.as_dict() for control in box.controls],
        "card": box.card.config(),
        "stages": STAGES,
        "sample_rate": 44100.0,
        "info": box.info,
    } | description
    text = json.dumps({**plain, "content_sha256": content_hash(plain, held)})
    path.write_bytes(to_bytes(held, {"ddsp_la2a": text}))


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({"sample_rate": True}, "the sample rate"),
        ({"sample_rate": 1e9, "stages": STAGES | {"output_filter": True}}, "output filter at 1e.09 Hz"),
        ({"sample_rate": 0.1, "stages": STAGES | {"output_filter": True}}, "output filter at 0.1 Hz"),
        ({"stages": {"output_filter": False, "slow_release": False}}, "stages with"),
        ({"more": 1}, "descriptions with"),
        ({"info": []}, "info is no dictionary"),
        ({"info": {"settings_seen": "0 40"}}, "settings_seen"),
        ({"info": {"settings_seen": [[0, 40, 1]]}}, "3 positions"),
        (
            {"controls": [Control("a", 0, 10**4 - 1, "switch").as_dict(), Control("b", 0, 9, "switch").as_dict()]},
            "most",
        ),
        ({"controls": [Control("a").as_dict() | {"low": False}]}, "a control"),
        ({"controls": [Control("a").as_dict() | {"high": 10**300}]}, "a control"),
        ({"family": "a\n" * 10**5}, "family 'a"),
        ({"format_version": "9\n" * 10**5}, "format version"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_description_is_not_believed(
    description: dict[str, Any], reason: str, box: la.GreyBox, tmp_path: Path
) -> None:
    path = tmp_path / "m"
    forge(path, box, description)
    with pytest.raises(ValueError, match=reason) as caught:
        la.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "hidden", [[10**9, 10**9], [8] * 10**5, [True, 8], [0, 8]], ids=lambda hidden: str(hidden)[:20]
)
def test_nothing_is_built_that_the_tensors_do_not_fill(hidden: list[int], box: la.GreyBox, tmp_path: Path) -> None:
    forge(tmp_path / "m", box, {"card": box.card.config() | {"hidden": hidden}})
    with pytest.raises(ValueError, match="m: expected"):
        la.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("covariance", "reason"),
    [
        (lambda c: c.index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(0.5).double()), "symmetric"),
        (lambda c: -c, "variance below 0"),
        (lambda c: c + 2.0 * torch.ones_like(c) - 2.0 * torch.eye(len(c)), "correlation beyond 1"),
        (lambda c: 1e40 * c, "holds 1e.40"),
        (lambda c: c[1:, 1:].contiguous(), "covariance has shape"),
    ],
)
def test_a_covariance_that_is_none_is_refused(covariance: Any, reason: str, box: la.GreyBox, tmp_path: Path) -> None:
    whole = torch.eye(sum(p.numel() for p in box.parameters()), dtype=torch.float64)
    forge(tmp_path / "m", box, {}, covariance=whole)
    assert torch.equal(la.load(tmp_path / "m").covariance, whole)
    forge(tmp_path / "m", box, {}, covariance=covariance(whole))
    with pytest.raises(ValueError, match=reason):
        la.load(tmp_path / "m")


@pytest.mark.parametrize("value", [1e300, -1e300, 1e101])
def test_weights_that_overflow_are_refused(value: float, box: la.GreyBox, tmp_path: Path) -> None:
    weight = box.card.layers[0].weight.detach().clone()
    forge(tmp_path / "m", box, {}, **{"card.layers.0.weight": weight.index_fill(0, torch.tensor([1]), value)})
    with pytest.raises(ValueError, match="weight holds"):
        la.load(tmp_path / "m")


def test_a_table_has_the_settings_that_its_description_says(tmp_path: Path) -> None:
    published = la.load("published")
    assert isinstance(published.card, ParameterTable)
    forge(tmp_path / "m", published, {"info": {}})
    assert la.load(tmp_path / "m").card.config() == published.card.config()
    moved = published.card.settings + torch.tensor([0.0, 0.5], dtype=torch.float64)
    forge(tmp_path / "m", published, {"info": {}}, **{"card.settings": moved})
    with pytest.raises(ValueError, match="other settings"):
        la.load(tmp_path / "m")


def test_a_key_twice_is_refused(box: la.GreyBox, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, box, {})
    data = path.read_bytes()
    count = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + count].replace(rb"\"family\"", rb"\"family\":\"other\",\"family\"", 1)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + count :])
    with pytest.raises(ValueError, match="m: expected a ddsp_la2a model file"):
        la.load(path)


def test_text_that_cannot_be_hashed_is_refused(box: la.GreyBox, tmp_path: Path) -> None:
    text = json.dumps({"format_version": 3, "info": "\ud800", "content_sha256": "0"})
    (tmp_path / "m").write_bytes(to_bytes({"device": torch.zeros(1)}, {"ddsp_la2a": text}))
    with pytest.raises(ValueError, match="m: expected a ddsp_la2a model file"):
        la.load(tmp_path / "m")


def test_what_could_not_be_read_is_not_written(box: la.GreyBox, tmp_path: Path) -> None:
    box.info = {"long": "x" * 10**6}
    with pytest.raises(ValueError, match="description of at most 1,000,000 bytes"):
        box.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_sizes_are_limited_only_where_the_caller_says(tmp_path: Path) -> None:
    path, tensors = tmp_path / "m", {"weights": torch.zeros(1000)}
    write_tensors(path, {"format_version": 1}, tensors)
    assert read_tensors(path, "checkpoint", (1,))[1]["weights"].shape == (1000,)
    with pytest.raises(ValueError, match=r"m: expected a file of at most 3,000 bytes"):
        read_tensors(path, "checkpoint", (1,), largest_bytes=3000)
    with pytest.raises(ValueError, match=r"m: expected a description of at most 10 bytes"):
        read_tensors(path, "checkpoint", (1,), largest_header=10)


CONTROLS = (Control("a"), Control("b", 0, 1, "switch"), Control("c", -1, 3, "switch"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sizes_are_known_beforehand(count: int) -> None:
    controls = CONTROLS[:count]
    assert count_inputs(controls) == ControlNet((), controls=controls).layers[0].in_features
    assert count_weights(controls) == 12 + 2 * len(Taper(controls)._switched)


def test_switches_have_no_more_positions_than_can_be_looked_at() -> None:
    with pytest.raises(ValueError, match="at most 10000 positions"):
        unique([Control("program", 0, 127, "switch"), Control("bank", 0, 127, "switch")])
    assert unique([Control("program", 0, 127, "switch")])
    with pytest.raises(ValueError, match="expected low below high"):
        Control("endless", -1e308, 1e308)
