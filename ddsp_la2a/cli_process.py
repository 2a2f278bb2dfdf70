"""``ddsp-la2a process``: a file through a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
from tqdm import tqdm

import ddsp_la2a as la
from ddsp_la2a.cli_arguments import limit_option, peak_reduction_option, positions_option
from ddsp_la2a.cli_options import announce_compiling, positions_at
from ddsp_la2a.console import say
from ddsp_la2a.data.audio import audio_info
from ddsp_la2a.files import replacing

_BLOCK_FRAMES = 1 << 17
_NOT_WRITTEN = {"RAW", "SD2"}  # one without a header, one with a second file beside it
_VORBIS_HZ = 192000  # libvorbis ends the process at 300 kHz


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what libsndfile complains about into an error that names the file."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(". ")
        raise ValueError(f"{path}: expected audio that can be read and written, got: {reason}") from error


def _blocks(reader: Any, path: Path) -> Iterator[Any]:
    with _named(path):
        yield from reader.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True)


@click.command()
@click.argument("source", metavar="IN.wav", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT.wav", type=click.Path(path_type=Path))
@peak_reduction_option
@limit_option
@positions_option
@click.option("--model", default="published", show_default=True, help="Model file, or 'published'.")
@click.option("--dual-mono", is_flag=True, help="Each channel by itself instead of one gain for all.")
def process(
    source: Path,
    destination: Path,
    peak_reduction: float | None,
    limit: bool,
    positions: dict[str, float],
    model: str,
    dual_mono: bool,
) -> None:
    """Compress IN.wav into OUT.wav, block by block; any rate, any number of channels."""
    loaded = la.load(model)
    info = audio_info(source)
    if source.resolve() == destination.resolve():
        raise ValueError(f"{destination}: expected another file than the input; name another OUT.wav")
    if destination.suffix[1:].upper() not in soundfile.available_formats().keys() - _NOT_WRITTEN:
        raise ValueError(f"{destination}: expected an ending such as .wav or .flac, got {destination.suffix!r}")
    if destination.suffix.lower() == ".ogg" and info.sample_rate > _VORBIS_HZ:
        raise ValueError(f"{destination}: expected at most {_VORBIS_HZ} Hz, got {info.sample_rate}; write a .wav")
    positions = positions_at(loaded, model, peak_reduction, limit, positions)
    stream = loaded.stream(info.sample_rate, channels=info.channels, linked=not dual_mono, **positions)
    announce_compiling()
    peak, done = 0.0, 0
    with replacing(destination) as temporary, _named(source), soundfile.SoundFile(source) as reader:
        subtype = reader.subtype if soundfile.check_format(temporary.suffix[1:], reader.subtype) else None
        with (
            _named(destination),
            soundfile.SoundFile(temporary, "w", info.sample_rate, info.channels, subtype) as writer,
            tqdm(total=info.frames, desc="process", unit="frame", unit_scale=True) as bar,
        ):
            late = stream.latency_samples  # made good: that much of the beginning goes, and silence is played after
            end = np.zeros((late, info.channels), dtype=np.float32)
            for block in itertools.chain(_blocks(reader, source), [end]):
                output = stream.process(block.T)
                bad = ~np.isfinite(output).all(axis=0)
                if bad.any():
                    at = (done + int(bad.argmax())) / info.sample_rate
                    raise ValueError(f"{source}: expected finite samples, got NaN or infinity at {at:.3f} s")
                peak = max(peak, float(abs(output).max(initial=0.0)))
                writer.write(output[:, max(0, late - done) :].T)
                done += block.shape[0]
                bar.update(block.shape[0])
    if peak > 1.0 and not (subtype or "").startswith(("FLOAT", "DOUBLE")):
        say(f"warning: {destination}: clipped, the peak was {peak:.2f} of full scale; lower the input")
