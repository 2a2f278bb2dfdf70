"""Model files: the same model back, or a refusal, and nothing left behind."""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP
from ddsp_la2a.model.stages import Stages
from ddsp_la2a.model.storage import load, save
from ddsp_la2a.model.tensor_file import content_hash

RATE = 44100
INFO = {"data": "sha256:…", "scores": {"esr": 0.0039}, "author": "György"}


def network(hidden: tuple[int, ...] = (8, 8)) -> GreyBox:
    box = GreyBox(ControlNet(hidden, seed=5), INFO)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in box.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return box


def table(*settings: tuple[float, float], makeup: bool = True, nearest: bool = False) -> GreyBox:
    columns = (*CARD_PARAMETERS, MAKEUP) if makeup else CARD_PARAMETERS
    rows = [
        {"compress_or_limit": s, "peak_reduction": k, **{p.name: 0.99 * p.start + 0.01 * p.high * i for p in columns}}
        for i, (s, k) in enumerate(settings or ((0, 40), (0, 90), (1, 40), (1, 90)))
    ]
    return GreyBox(ParameterTable(pd.DataFrame(rows), nearest=nearest), INFO)


MODELS: dict[str, Callable[[], GreyBox]] = {
    "network": network,
    "network of another size": lambda: network((3,)),
    "network without hidden layers": lambda: network(()),
    "table": table,
    "table of one setting": lambda: table((1, 65)),
    "table without make-up": lambda: table(makeup=False),
    "table, nearest": lambda: table(nearest=True),
    "published": lambda: load("published"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(network(), path)
    return path


def forge(
    path: Path,
    description: Callable[[dict[str, Any]], Any] = lambda d: d,
    tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda t: t,
    metadata: Callable[[dict[str, str]], dict[str, str] | None] = lambda m: m,
    model: GreyBox | None = None,
) -> None:
    """Write a file as someone would who wishes harm and knows the format: the hash fits what it holds."""
    model = model or network()
    held = tensors({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()})
    plain = {
        "format_version": 3,
        "family": "compressor",
        "controls": [control.as_dict() for control in model.controls],
        "card": model.card.config(),
        "stages": asdict(model.stages),
        "sample_rate": model.sample_rate,
        "info": model.info,
    }
    described = description(plain)
    try:
        digest = content_hash(described, held)
    except TypeError:
        digest = "0" * 64
    text = json.dumps({**described, "content_sha256": digest} if isinstance(described, dict) else described)
    path.write_bytes(to_bytes(held, metadata({"ddsp_la2a": text})))


# Round trip


@pytest.mark.parametrize("name", MODELS)
def test_what_comes_back_gives_the_same_output_bit_by_bit(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    path = tmp_path / "model.safetensors"
    model.save(path)
    back = load(path)
    x = np.random.default_rng(0).standard_normal((2, 3000))
    for switch, knob in ((1, 65), (1, 65.5)) if name == "table of one setting" else ((0, 40), (0, 63.7), (1, 80)):
        controls = {"compress_or_limit": switch, "peak_reduction": knob}
        if name == "table of one setting" and knob != 65:
            with pytest.warns(UserWarning, match="outside the table"):
                np.testing.assert_array_equal(back.process(x, RATE, **controls), model.process(x, RATE, **controls))
        else:
            np.testing.assert_array_equal(back.process(x, RATE, **controls), model.process(x, RATE, **controls))
    assert back.info == model.info
    assert back.card.config() == model.card.config()
    assert back.controls == model.controls
    assert not back.training
    if name != "table of one setting":
        pd.testing.assert_frame_equal(back.curves(), model.curves(), check_exact=True)


@pytest.mark.parametrize("kind", ["network", "table"])
def test_another_unit_comes_back_with_its_controls(kind: str, tmp_path: Path) -> None:
    controls = (Control("speed", 1.0, 3.0, "switch"), Control("drive", -1.5, 10.0), Control("ratio"))
    rows = [
        {"speed": 1 + i, "drive": 2.5 * i, "ratio_position": 0.1 * i, **{p.name: p.start for p in CARD_PARAMETERS}}
        for i in range(3)
    ]
    table = ParameterTable(pd.DataFrame(rows).assign(ratio=[2.0, 4.0, 8.0]), controls, nearest=True)
    model = GreyBox(table if kind == "table" else ControlNet((3,), seed=2, controls=controls), INFO)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.controls == controls
    at = {"speed": 3, "drive": 6.1, "ratio": 0.25}
    x = np.random.default_rng(0).standard_normal(3000)
    np.testing.assert_array_equal(back.process(x, RATE, **at), model.process(x, RATE, **at))
    pd.testing.assert_frame_equal(back.curves(), model.curves(), check_exact=True)


def test_saved_again_it_is_the_same_file(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save(load(file), again)
    assert again.read_bytes() == file.read_bytes()


def test_a_loaded_model_can_be_trained_on(file: Path) -> None:
    model = load(file)
    model(torch.full((1, 50), 0.5), torch.tensor([1, 65]), RATE).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("kind", [str, Path, os.fspath])
def test_a_path_may_be_text_or_a_path(kind, tmp_path: Path) -> None:
    path = kind(tmp_path / "model.safetensors")
    save(network(), path)
    assert isinstance(load(path), GreyBox)


def test_folder_and_file_names_may_hold_any_script(tmp_path: Path) -> None:
    folder = tmp_path / "Modèles – 模型 🎚"
    folder.mkdir()
    path = folder / "Prüfling Nº 2 é.safetensors"
    save(network(), path)
    assert load(path).info == INFO
    assert [p.name for p in folder.iterdir()] == [path.name]


@pytest.mark.parametrize("knobs", [(62.2, 62.7), (62.5, 70.0)])
def test_knob_positions_between_the_numbers(knobs: tuple[float, float], tmp_path: Path) -> None:
    save(table(*((0, knob) for knob in knobs)), tmp_path / "m")
    assert load(tmp_path / "m").card.settings[:, 1].tolist() == list(knobs)


@pytest.mark.parametrize(
    "info",
    [{}, {"scores": {65: 0.1, 80: 0.2}}, {"scores": {65: 0.1, 100: 0.2}}, {"best": math.nan}, {"text": 'ä "\\ \u2028'}],
    ids=["empty", "whole-number keys", "whole-number keys that sort otherwise as text", "NaN", "odd characters"],
)
def test_a_file_that_was_saved_can_be_loaded(info: dict[str, Any], tmp_path: Path) -> None:
    model = network()
    model.info = info
    save(model, tmp_path / "m")
    assert json.dumps(load(tmp_path / "m").info) == json.dumps(info)


def test_the_file_is_data_without_pickle(file: Path) -> None:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header.pop("__metadata__")["ddsp_la2a"])
    assert description["format_version"] == 3
    assert [row["name"] for row in description["card"]["parameters"]] == [p.name for p in CARD_PARAMETERS]
    assert {entry["dtype"] for entry in header.values()} == {"F64"}
    assert len(data) == 8 + length + sum(e["data_offsets"][1] - e["data_offsets"][0] for e in header.values())


def test_neither_saving_nor_loading_touches_pickle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Unpickler", "Pickler"):
        monkeypatch.setattr(f"pickle.{name}", refuse)
    for name in ("save", "load"):
        monkeypatch.setattr(torch, name, refuse)
    save(network(), tmp_path / "m")
    load(tmp_path / "m")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_file_is_as_readable_as_any_other(file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


# Refused


def test_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"^{missing}: expected a model file"):
            load(missing)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 8, b"knee_db: 6\n" * 40, b"{}", b"RIFF\0\0\0\0WAVEfmt ", b"\x80\x04}q\0.", b"\xff" * 100],
    ids=["empty", "zeros", "text", "JSON", "wav", "pickle", "ones"],
)
def test_another_kind_of_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"other.safetensors: expected a ddsp_la2a model file"):
        load(path)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {}, {"format": "pt"}):
        path.write_bytes(to_bytes({"weight": torch.zeros(3)}, metadata))
        with pytest.raises(ValueError, match="expected a ddsp_la2a model file"):
            load(path)


def test_a_truncated_or_lengthened_file_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for length in (*range(0, len(data), 97), len(data) - 8, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"model.safetensors: expected"):
            load(file)
    file.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=r"model.safetensors: expected"):
        load(file)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_one_flipped_byte_is_refused_wherever_it_is(mask: int, file: Path) -> None:
    original, data = load(file), bytearray(file.read_bytes())
    for position in (*range(16), *range(16, len(data), 11), len(data) - 1):
        data[position] ^= mask
        file.write_bytes(data)
        try:
            back = load(file)
        except ValueError as error:
            assert "model.safetensors: expected" in str(error)  # noqa: PT017 - most positions, not all
        else:  # the spelling of the header's text may change (capitals in an escape, a blank), never what it says
            assert back.info == original.info
            assert all(torch.equal(a, b) for a, b in zip(back.parameters(), original.parameters(), strict=True))
        data[position] ^= mask


@pytest.mark.parametrize("letter", [b"I", b"U"])
def test_a_flipped_byte_that_turns_floats_into_integers_is_refused(letter: bytes, file: Path) -> None:
    data = file.read_bytes()
    assert data.count(b'"F64"') == 7
    file.write_bytes(data.replace(b'"F64"', b'"' + letter + b'64"', 1))
    with pytest.raises(ValueError, match=r"model.safetensors: expected"):
        load(file)


@pytest.mark.parametrize("version", [0, 4, 1.5, "1", None])
def test_another_format_version_is_refused_with_what_to_do(version: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, lambda d: d | {"format_version": version})
    with pytest.raises(ValueError, match=r"expected format version 3, got .*install"):
        load(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["device", "card.layers.0.weight", "card.layers.2.bias"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, tensors=lambda t: t | {name: t[name].clone().index_fill_(0, torch.tensor([0]), value)})
    with pytest.raises(ValueError, match="expected finite weights"):
        load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        lambda t: {name: tensor for name, tensor in t.items() if name != "device"},
        lambda t: {name: tensor for name, tensor in t.items() if name != "card.layers.1.weight"},
        lambda t: t | {"stranger": torch.zeros(1)},
        lambda t: t | {"card.layers.0.weight": t["card.layers.0.weight"].T.contiguous()},
        lambda t: {},
    ],
    ids=["no device", "no layer", "one too many", "transposed", "none"],
)
def test_other_tensors_than_described_are_refused(tensors, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, tensors=tensors)
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32, torch.bfloat16])
def test_tensors_of_another_type_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, tensors=lambda t: {name: tensor.to(dtype) for name, tensor in t.items()})
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "3", '"text"', "[]", "{}", '{"content_sha256": null}', "[" * 100_000, '{"format_version": 1}'],
    ids=lambda text: text[:20] or "empty",
)
def test_metadata_that_is_no_description_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(to_bytes({"device": torch.zeros(1)}, {"ddsp_la2a": text}))
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


def test_a_hash_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"

    def without_hash(metadata: dict[str, str]) -> dict[str, str]:
        return {"ddsp_la2a": json.dumps(json.loads(metadata["ddsp_la2a"]) | {"content_sha256": None})}

    forge(path, metadata=without_hash)
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "pickle"},
        {"type": ["control-net"]},
        {"type": "table"},
        {"type": "table", "nearest": False, "settings": 3},
        {"type": "table", "nearest": False, "settings": [[0, 40]]},
        {"hidden": None},
        {"hidden": [8]},
        {"hidden": [-8, 8]},
        {"hidden": [8.0, 8]},
        {"hidden": [10**30]},
        {"parameters": []},
        {"parameters": None},
        {"parameters": "threshold_db"},
        {"parameters": [{"name": "ratio"}]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_a_hostile_description_of_the_card_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, lambda d: d | {"card": d["card"] | changed})
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


@pytest.mark.parametrize("part", ["controls", "card"])
@pytest.mark.parametrize("value", [None, [], "control-net", {}, [None], [{}], [{"name": "gain"}], 3])
def test_a_part_that_is_no_description_is_refused(part: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, lambda d: d | {part: value})
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "two words"},
        {"name": 3},
        {"name": "peak_reduction"},
        {"low": 1.0},
        {"low": None},
        {"low": "0"},
        {"high": math.nan},
        {"high": 10**400},
        {"high": 2.0},
        {"kind": "pickle"},
        {"kind": ["switch"]},
        {"command": "rm"},
    ],
    ids=str,
)
def test_a_hostile_control_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    """A switch of three positions is a control like any other, but none for these weights."""
    path = tmp_path / "m"
    forge(path, lambda d: d | {"controls": [d["controls"][0] | changed, d["controls"][1]]})
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


def older(path: Path, version: int, **changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """A file as versions 1 and 2 wrote it: the LA-2A's, with the card under another name."""

    def describe(d: dict[str, Any]) -> dict[str, Any]:
        old = {"format_version": version, "family": d["family"], "controls": d["card"], "info": d["info"]}
        return changes.get("description", dict)(old)

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {name.replace("card.", "controls."): tensor for name, tensor in tensors.items()}
        old["makeup"] = old.pop("device").reshape(())
        return changes.get("tensors", dict)(old)

    forge(path, describe, rename)


@pytest.mark.parametrize("version", [1, 2])
def test_older_files_are_the_la2a_s(version: int, tmp_path: Path) -> None:
    older(tmp_path / "old", version)
    back = load(tmp_path / "old")
    assert back.controls == LA2A_CONTROLS
    pd.testing.assert_frame_equal(back.curves(), network().curves(), check_exact=True)
    save(back, tmp_path / "new")
    save(network(), tmp_path / "as now")
    assert (tmp_path / "new").read_bytes() == (tmp_path / "as now").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": lambda t: {name.replace("controls.", "card."): tensor for name, tensor in t.items()}},
        {"tensors": lambda t: t | {"card.layers.0.bias": t["controls.layers.0.bias"].clone()}},
        {"tensors": lambda t: t | {"stranger": torch.zeros(1, dtype=torch.float64)}},
        {"description": lambda d: d | {"card": d["controls"]}},
        {"description": lambda d: d | {"controls": [control.as_dict() for control in LA2A_CONTROLS]}},
    ],
    ids=["new names", "both names", "one too many", "both descriptions", "new description"],
)
def test_older_files_are_read_as_strictly(changes: dict[str, Any], tmp_path: Path) -> None:
    older(tmp_path / "m", 2, **changes)
    with pytest.raises(ValueError, match="m: expected"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "changed",
    [
        {"stages": {"tube": True}},
        {"stages": None},
        {"stages": "none"},
        {"stages": {"shelf": 1}},
        {"stages": {"shelf": "yes"}},
        {"stages": {"output_filter": True, "slow_release": True, "shelf": False, "feedback": None}},
        {"stages": {}},  # those of hardware, whose numbers aren't there
        {"sample_rate": 0.0},
        {"sample_rate": -44100.0},
        {"sample_rate": math.nan},
        {"sample_rate": None},
        {"sample_rate": "44100"},
    ],
    ids=str,
)
def test_stages_and_rates_that_are_none_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    forge(tmp_path / "m", lambda d: d | changed)
    with pytest.raises(ValueError, match="m: expected"):
        load(tmp_path / "m")


@pytest.mark.parametrize("size", [0, 1, 7, 9, 13])
def test_a_device_of_another_size_than_its_stages_is_refused(size: int, tmp_path: Path) -> None:
    forge(
        tmp_path / "m",
        lambda d: d | {"stages": asdict(Stages())},
        lambda t: t | {"device": torch.zeros(size, dtype=torch.float64)},
    )
    with pytest.raises(ValueError, match="m: expected"):
        load(tmp_path / "m")


def test_a_missing_part_of_the_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    for missing in ("controls", "card", "stages", "sample_rate", "info", "format_version"):
        forge(path, lambda d, missing=missing: {key: value for key, value in d.items() if key != missing})
        with pytest.raises(ValueError, match="m: expected"):
            load(path)


@pytest.mark.parametrize(
    ("index", "changed"),
    [
        (0, {"low": math.nan}),
        (0, {"low": 0.0, "high": 0.0}),
        (0, {"low": "a"}),
        (0, {"low": None}),
        (0, {"start": 1e9}),
        (0, {"start": None}),
        (0, {"command": "rm"}),
        (1, {"low": -1.0}),
        (0, {"low": -math.inf}),
        (0, {"high": math.inf}),
        (0, {"scale": "cubic"}),
        (0, {"name": "threshold"}),
        (0, {"name": "ratio"}),
        (1, {"low": 0.1}),
        (2, {"low": -5.0}),
    ],
    ids=lambda value: str(value),
)
def test_a_parameter_that_no_compressor_takes_is_refused(index: int, changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m"

    def edit(description: dict[str, Any]) -> dict[str, Any]:
        description["card"]["parameters"][index] |= changed
        return description

    forge(path, edit)
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


@pytest.mark.parametrize("changed", [{"format_version": True}, {"family": "optical-cell"}], ids=str)
def test_what_this_version_cannot_know_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, lambda d: d | changed)
    with pytest.raises(ValueError, match="m: expected"):
        load(path)


# Nothing left behind


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "model.safetensors"
    with pytest.raises(ValueError, match="expected a file name in an existing folder"):
        save(network(), path)
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_keeps_what_it_has(file: Path) -> None:
    before = contents(file.parent)
    file.parent.chmod(0o500)
    try:
        with pytest.raises(OSError, match="Permission denied"):
            save(table(), file)
    finally:
        file.parent.chmod(0o700)
    assert contents(file.parent) == before


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("at", ["os.fsync", "pathlib.Path.replace", "ddsp_la2a.model.tensor_file.to_bytes"])
def test_whatever_goes_wrong_the_old_file_is_intact_and_no_other_left(
    at: str, error: BaseException, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(file.parent)

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(at, fail)
        with pytest.raises(type(error)):
            save(table(), file)
    assert contents(file.parent) == before
    save(table(), file)
    assert list(contents(file.parent)) == [file.name]


@pytest.mark.parametrize("info", [{"when": object()}, {"score": np.float32(1.0)}])
def test_information_that_is_not_plain_data_leaves_nothing_behind(info: dict[str, Any], file: Path) -> None:
    before = contents(file.parent)
    model = network()
    model.info = info
    with pytest.raises((TypeError, ValueError)):
        save(model, file)
    assert contents(file.parent) == before


def test_a_folder_in_place_of_the_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises((OSError, ValueError)):
        save(network(), tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_weights_that_are_not_finite_are_not_saved(file: Path) -> None:
    before = contents(file.parent)
    model = network()
    with torch.no_grad():
        model.device.fill_(math.nan)
    with pytest.raises(ValueError, match="expected finite weights"):
        save(model, file)
    assert contents(file.parent) == before
