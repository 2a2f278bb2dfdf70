"""Model files that are damaged, or written by someone who wishes harm, and what loading makes of them."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import random
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

import ddsp_la2a as la
from ddsp_la2a.model.control_net import ParameterTable
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP
from ddsp_la2a.model.stages import HARDWARE, PLAIN, CellStages
from ddsp_la2a.model.storage import load, save
from ddsp_la2a.model.taper import Taper
from ddsp_la2a.model.tensor_file import content_hash

_KEY = "ddsp_la2a"
_HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 10**9, 10**30, 10**400, -(10**30), 1e-300, 1e300, -1e300),
    *(math.nan, math.inf, -math.inf, "", "0", "x" * 50, "a\nb", "\ud800", "__class__", [], {}, [[]], [None], [1e9] * 3),
    *({"__reduce__": ["os.system", "true"]}, [0] * 1000, "ratio", "makeup_db", "switch", "log", "table", "taper"),
)


@dataclass(frozen=True)
class Original:
    """A model file as it should be, and its parts."""

    data: bytes
    description: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, model: la.GreyBox, path: Path) -> Original:
        """Save a model and take the file apart, without the library's own reading."""
        save(model, path)
        data = path.read_bytes()
        return cls(data, *_parts(data))


def _parts(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    count = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + count]), data[8 + count :]
    description = json.loads(header.pop("__metadata__")[_KEY])
    description.pop("content_sha256")
    arrays = {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], "<f8").reshape(entry["shape"])
        for name, entry in header.items()
    }
    return description, {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def originals(folder: Path) -> dict[str, Original]:
    """Both families, every card, with a covariance and without."""
    strip = (
        la.Control("threshold", -60.0, 0.0),
        la.Control("mode", 1.0, 3.0, "switch"),
        la.Control("ratio", 1.0, 20.0),
    )
    settings = [{"compress_or_limit": s, "peak_reduction": k} for s in (0, 1) for k in (40.0, 65.0, 90.0)]
    rows = pd.DataFrame([row | {p.name: p.start for p in (*CARD_PARAMETERS, MAKEUP)} for row in settings])
    apart = pd.DataFrame([{"threshold": -10.0 * n, "mode": n, "ratio_position": 2.0 * n} for n in (1, 2, 3)])
    models = {
        "network": la.GreyBox(la.ControlNet(seed=1), {"settings_seen": [[0, 40], [1, 65.5]]}, HARDWARE),
        "network, another unit": la.GreyBox(la.ControlNet((3,), seed=2, controls=strip), {"author": "György"}, PLAIN),
        "table": la.GreyBox(ParameterTable(rows), {"scores": {"esr": 0.004}}),
        "table, nearest": la.GreyBox(
            ParameterTable(apart.assign(**{p.name: p.start for p in CARD_PARAMETERS}), strip, nearest=True)
        ),
        "taper": la.GreyBox(Taper(), {}, CellStages(), 48000.0),
        "taper, no stages": la.GreyBox(Taper(rises=False), {}, CellStages(output_filter=False, traps=False)),
    }
    generator = torch.Generator().manual_seed(0)
    for name, model in models.items():
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        if name in ("network", "table", "taper"):
            count = sum(p.numel() for p in model.parameters()) if name != "table" else len(CARD_PARAMETERS) + 1
            root = 1e-2 * torch.randn((count, count), generator=generator, dtype=torch.float64)
            whole = root @ root.T
            model.covariance = whole if name != "table" else whole.expand(len(rows), count, count).contiguous()
    return {name: Original.of(model, folder / "original.safetensors") for name, model in models.items()}


def forged(description: Any, tensors: dict[str, Tensor]) -> bytes:
    """A file whose hash fits what it holds, wherever there is one."""
    try:
        digest = content_hash(description, tensors)
    except (TypeError, ValueError, RecursionError):
        digest = "0" * 64
    described = {**description, "content_sha256": digest} if isinstance(description, dict) else description
    return to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}, {_KEY: json.dumps(described)})


def _raw(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    count = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + count]), data[8 + count :]


def _bytes(original: Original, rng: random.Random) -> bytes:
    data = bytearray(original.data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
    return bytes(data)


def _length(original: Original, rng: random.Random) -> bytes:
    data, count = original.data, struct.unpack("<Q", original.data[:8])[0]
    way = rng.randrange(4)
    if way == 0:
        return data[: rng.randrange(len(data))]
    if way == 1:
        return data + rng.choice((b"\0", bytes(1000), rng.randbytes(100), data))
    new = rng.choice(
        (0, 1, count - 1, count + 1, len(data), 10**8, 2**31, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64))
    )
    return struct.pack("<Q", new % 2**64) + data[8:]


def _header(original: Original, rng: random.Random) -> bytes:
    header, body = _split(original.data)
    names = [name for name in header if name != "__metadata__"]
    entry, other = (header[rng.choice(names)] for _ in range(2))
    way = rng.randrange(9)
    if way == 0:
        entry["shape"] = rng.choice(([10**18], [2**63, 2], [0, 10**12], [-1], ["8"], [1.5], None, [1] * 500, []))
    elif way == 1:
        entry["dtype"] = rng.choice(("I64", "F16", "BF16", "U8", "F8_E4M3", "C64", "OBJECT", "F32", 3, None))
    elif way == 2:
        entry["data_offsets"] = list(other["data_offsets"])
    elif way == 3:
        first, last = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(([last, first], [first, last + 8], [-8, last], [0, 2**63], [first], None))
    elif way == 4:
        header["__metadata__"] = rng.choice(
            (None, {}, {_KEY: 3}, [1], {_KEY: "{}"}, {_KEY: "[" * 50000}, {_KEY: "nul"})
        )
    elif way == 5:
        text = json.dumps(header)
        twice = rng.choice(names)
        return _raw((text[:-1] + f', "{twice}": {json.dumps(header[twice])}}}').encode(), body)
    elif way == 6:
        many = {f"t{number}": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]} for number in range(10000)}
        return _raw({**header, **many}, body)
    elif way == 7:
        return _raw(
            rng.choice((b"[" * 10**5, b"{}", b"null", b'{"a":' * 5000, b"\xff" * 100, b"{" + b" " * 10**6)), body
        )
    else:
        described = header["__metadata__"][_KEY]
        key = rng.choice(('"family"', '"sample_rate"', '"low"', '"content_sha256"'))
        header["__metadata__"][_KEY] = described.replace(key, f"{key}: {rng.choice((1, 44100.0, 0))}, {key}", 1)
    return _raw(header, body)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inside for place in _places(part, (*path, key)))]


def _description(original: Original, rng: random.Random) -> bytes:
    description = copy.deepcopy(original.description)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *above, last = rng.choice([path for path in _places(description) if path])
        at: Any = description
        for key in above:
            at = at[key]
        way = rng.randrange(4)
        if way == 0 and isinstance(at, (dict, list)):
            at.pop(last)
        elif way == 1 and isinstance(at[last], (dict, list)):
            value = copy.deepcopy(rng.choice(_HOSTILE))
            if isinstance(at[last], dict):
                at[last][rng.choice(("extra", "type", "low", "name", "nearest"))] = value
            else:
                at[last].insert(0, rng.choice((value, copy.deepcopy(at[last][0]) if at[last] else value)))
        elif way == 2 and type(at[last]) in (int, float):
            at[last] = rng.choice((-at[last], 1e3 * at[last], bool(at[last]), str(at[last]), at[last] + 1, 1e9, 10**9))
        else:
            at[last] = copy.deepcopy(rng.choice(_HOSTILE))
    return forged(description, original.tensors)


def _tensors(original: Original, rng: random.Random) -> bytes:
    tensors = {name: tensor.clone() for name, tensor in original.tensors.items()}
    name = rng.choice(["covariance"] * ("covariance" in tensors) * 3 + sorted(tensors))
    tensor = tensors[name]
    way = rng.randrange(8)
    if way <= 2:
        value = rng.choice((math.nan, math.inf, 1e300, -1e300, 1e308, 1e101, 200.0, -200.0, -1.0, 1e-320, 5.0))
        tensor.view(-1)[rng.randrange(tensor.numel())] = value
    elif way == 3:
        tensor.fill_(rng.choice((1e308, -1e308, 1e99, 0.0, 50.0, -50.0, 99.0)))
    elif way == 4:
        shapes = [tensor[..., None], tensor.flatten()[None], tensor[:0], tensor[..., :-1], torch.cat([tensor, tensor])]
        tensors[name] = rng.choice(shapes).contiguous()
    elif way == 5:
        kind = rng.choice((torch.float32, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.uint8))
        tensors[name] = tensor.to(kind)
    elif way == 6:
        tensors.pop(name)
    else:
        extra = rng.choice(("stranger", "covariance", "card.layers.9.weight", "makeup", "controls.rows"))
        tensors[extra] = torch.zeros(rng.choice((0, 1, 3, 100000)), dtype=torch.float64)
    return forged(original.description, tensors)


def _bombs(original: Original, rng: random.Random) -> bytes:
    description, tensors = copy.deepcopy(original.description), dict(original.tensors)
    card, controls = description["card"], description["controls"]
    way = rng.randrange(10)
    if way == 0:
        hidden = rng.choice(([10**9], [10**9] * 2, [10**5, 10**5], [1] * 10**4, [8] * 10**5))
        card |= {"type": "control-net", "hidden": hidden}
    elif way == 1:
        controls[0] |= {"kind": "switch", "low": 0, "high": rng.choice((10**9, 1e15, 10**300))}
    elif way == 2:
        count = rng.choice((10**3, 10**4, 10**5))
        description["controls"] = [controls[0] | {"name": f"knob_{number}"} for number in range(count)]
    elif way == 3:
        card |= {
            "type": "table",
            "nearest": True,
            "settings": [[0, 0.001 * n] for n in range(rng.choice((10**4, 3 * 10**4)))],
        }
    elif way == 4:
        card["parameters"] = card["parameters"] * rng.choice((10**3, 10**4))
    elif way == 5:
        depth, open_, close = rng.choice((100, 300, 900, 990, 5000)), *rng.choice((("[", "]"), ('{"a":', "}")))
        text = json.dumps(description | {"info": 0, "content_sha256": "0" * 64})
        nested = open_ * depth + ("0" if open_ != "[" else "") + close * depth
        return to_bytes(tensors, {_KEY: text.replace('"info": 0', f'"info": {nested}')})
    elif way == 6:
        description["info"] = {"long": "x" * rng.choice((10**5, 10**6, 2 * 10**6))}
    elif way == 7:
        description["family"] = rng.choice(("x" * 10**5, "a\n" * 1000, ["optical-cell"] * 1000))
    elif way == 8:
        description["sample_rate"] = rng.choice((1e-300, 0.001, 1.0, 2000.0, 1e8, 1e300, True, 10**400))
    else:
        tensors["stranger"] = torch.zeros(rng.choice((10**5, 3 * 10**6)), dtype=torch.float64)
    return forged(description, tensors)


def _others(original: Original, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"\0" * 8,
            b"PK\x03\x04" + original.data,
            pickle.dumps({"weights": [1.0] * 100}),
            b"cposix\nsystem\n(S'touch /tmp/harmed'\ntR.",
            json.dumps(original.description).encode(),
            rng.randbytes(rng.randrange(1, 5000)),
            b"\x93NUMPY" + original.data,
            original.data[8:],
        )
    )


DAMAGE: dict[str, Callable[[Original, random.Random], bytes]] = {
    "1 to 8 bytes anywhere": _bytes,
    "cut, lengthened, another header length": _length,
    "header of safetensors": _header,
    "other kinds of file": _others,
    "description, with a hash that fits": _description,
    "tensors, with a hash that fits": _tensors,
    "far too much of something": _bombs,
}

FORGED = tuple(DAMAGE)[-3:]
"""Those whose hash fits, so that another model may be accepted; elsewhere only the original."""

OUTCOMES = ("refused", "as it says", "as something else", "wrong error", "slow", "memory")
SLOW_S = 0.1
_MEMORY_BYTES, _MEMORY_TIMES = 32 << 20, 20


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, but true isn't 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def _means_what_it_says(model: la.GreyBox, damaged: bytes, path: Path) -> bool:
    """Whether the model would be saved as the file it was read from, and gives sound that is some."""
    description, tensors = _parts(damaged)
    again = path.with_name("again.safetensors")
    save(model, again)
    told, kept = _parts(again.read_bytes())
    if not _same(told, description) or kept.keys() != tensors.keys():
        return False
    if not all(torch.equal(kept[name], tensor) for name, tensor in tensors.items()):
        return False
    audio = np.sin(0.05 * np.arange(600))
    for end in ("low", "high"):
        at = {control.name: getattr(control, end) for control in model.controls}
        if not np.isfinite(model.process(audio, 44100, **at)).all():
            return False
    if len(model.controls) > 8:
        return True
    knobs = {control.name: (control.low, control.high) for control in model.controls if control.kind == "continuous"}
    return bool(np.isfinite(model.curves(**knobs).select_dtypes("number")).all(axis=None))


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def outcome(original: Original, damaged: bytes, path: Path, exact: bool = False) -> tuple[str, float]:
    """What loading makes of a file: one of the outcomes, and the seconds of processor time.

    Args:
        original: what was damaged.
        damaged: its bytes now.
        path: to write them to.
        exact: what is accepted must be the original itself: its hash says so.
    """
    path.write_bytes(damaged)
    before, start = _peak_bytes(), time.process_time()
    try:
        model: la.GreyBox | None = load(path)
        message = ""
    except (ValueError, FileNotFoundError) as error:
        model, message = None, str(error)
    except Exception:
        return "wrong error", time.process_time() - start
    seconds = time.process_time() - start
    if _peak_bytes() - before > _MEMORY_BYTES + _MEMORY_TIMES * len(damaged):
        return "memory", seconds
    if model is None:
        clear = message.startswith(f"{path}: expected") and "got" in message and "\n" not in message
        if not clear or len(message) > 300 + len(str(path)):
            return "wrong error", seconds
        return ("slow" if seconds > SLOW_S else "refused"), seconds
    try:
        told = _means_what_it_says(model, damaged, path)
    except Exception:
        told = False
    if exact:
        described, held = _parts(damaged)
        told = told and _same(described, original.description)
        told = told and all(torch.equal(held[name], tensor) for name, tensor in original.tensors.items())
    return ("as it says" if told else "as something else"), seconds


def special_files(folder: Path) -> list[Path]:
    """What has a name but isn't a file: a folder, a pipe, links in a circle and into nothing."""
    made = [folder / name for name in ("folder", "pipe", "circle", "nowhere")]
    made[0].mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(made[1])
    made[2].symlink_to(made[2])
    made[3].symlink_to(folder / "nothing")
    return [path for path in made if path.is_symlink() or path.exists()]
