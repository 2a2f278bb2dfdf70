"""A program as a model: anything that reads one WAV file and writes another."""

from __future__ import annotations

import math
import shlex
import string
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ddsp_la2a.controls import LA2A_CONTROLS, Control, in_order, unique
from ddsp_la2a.data.audio import read_audio

_SAID_CHARACTERS = 300
"""How much of what a program said last an error shows."""


class External:
    """An external program by a command template, such as ``my-la2a {input} {output} --pr {peak_reduction}``.

    Audio goes to the program as a mono float32 WAV file in a folder of its own and comes back from the file that it
    writes. No shell is involved: the template is taken apart into words as a shell would, quotes and all, and only then
    each placeholder is replaced within its word, so that nothing put in can become a word or a command of its own.

    Args:
        command_template: with ``{input}`` and ``{output}`` (paths), one placeholder a control, and, where the program
            wants it, ``{sample_rate}`` (whole Hz); ``{{`` and ``}}`` are braces. On Windows, put paths in quotes.
        controls: of the unit; the LA-2A's are ``{compress_or_limit}`` and ``{peak_reduction}``.
        timeout_s: longest time in seconds that one run may take.

    Raises:
        ValueError: the template is empty, its quotes don't match, a placeholder is unknown or missing, or a control is
            called input or output.
    """

    def __init__(
        self, command_template: str, controls: Sequence[Control] = LA2A_CONTROLS, timeout_s: float = 600.0
    ) -> None:
        self.controls = unique(controls)
        self.command_template = command_template
        self.timeout_s = timeout_s
        self.info: dict[str, Any] = {}
        if not timeout_s > 0.0:
            raise ValueError(f"timeout_s: expected more than 0 s, got {timeout_s!r}")
        try:
            self._words = shlex.split(command_template)
        except ValueError as error:
            raise ValueError(f"command: {error} in {command_template!r}; close every quote") from None
        if not self._words:
            raise ValueError("command: expected a program and its arguments, got nothing")
        found = {name for word in self._words for name in self._placeholders(word)}
        names = [control.name for control in self.controls]
        if taken := [name for name in names if name in ("input", "output")]:
            raise ValueError(f"controls: expected other names than input and output, which are files, got {taken[0]}")
        known = ["input", "output", "sample_rate", *names]
        in_braces = ", ".join(f"{{{name}}}" for name in known)
        if unknown := sorted(found - set(known)):
            raise ValueError(
                f"command: expected placeholders {in_braces}, got {{{unknown[0]}}}; write {{{{ for a brace"
            )
        if missing := [name for name in ("input", "output", *names) if name not in found]:
            raise ValueError(f"command: expected placeholders {in_braces}, got none for {', '.join(missing)}")

    def _placeholders(self, word: str) -> list[str]:
        try:
            parts = list(string.Formatter().parse(word))
        except ValueError as error:
            raise ValueError(f"command: {error} in {word!r}; write {{{{ and }}}} for braces") from None
        for _, name, form, conversion in parts:
            if name is not None and (form or conversion):
                raise ValueError(f"command: expected plain placeholders such as {{input}}, got {word!r}")
        return [name for _, name, _, _ in parts if name is not None]

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """What the program makes of this audio, run once a row.

        Args:
            audio: full scale ±1; it goes through float32.
            sample_rate: whole, in Hz.
            positions: of all controls by name.

        Shape:
            ``(time,)`` or ``(batch, time)``, as is the output.

        Returns:
            The program's output in the type of the audio, sample for sample: a latency is neither guessed nor taken
            out.

        Raises:
            ValueError: audio, sample rate or a position that isn't as stated.
            ChildProcessError: the program isn't there, failed, took too long, or wrote nothing, a file of another
                length, rate or number of channels, or samples that aren't finite; with the command and the end of what
                it said.
        """
        audio = np.asarray(audio)
        if audio.ndim not in (1, 2) or not np.issubdtype(audio.dtype, np.floating):
            got = f"{audio.dtype} of shape {audio.shape}"
            raise ValueError(f"audio: expected floating point of shape (time,) or (batch, time), got {got}")
        if not np.isfinite(audio).all():
            raise ValueError("audio: expected finite samples, got NaN or infinity")
        if not (sample_rate > 0 and float(sample_rate).is_integer()):
            raise ValueError(f"sample_rate: expected whole Hz, which is what a WAV file holds, got {sample_rate!r}")
        values = {"sample_rate": str(int(sample_rate))}
        for control, position in zip(self.controls, in_order(self.controls, positions), strict=True):
            try:
                number = float(position)
            except (TypeError, ValueError):
                number = math.nan
            if not control.holds(number):
                raise ValueError(f"{control.name}: expected {control.positions}, got {position!r}")
            values[control.name] = str(int(number)) if number.is_integer() else repr(number)
        if audio.ndim == 1:  # perhaps a whole recording, of which there is no second copy
            return self._run(audio, int(sample_rate), values).astype(audio.dtype, copy=False)
        rows = [self._run(row, int(sample_rate), values) for row in audio]
        return np.array(rows, dtype=audio.dtype).reshape(audio.shape)

    def _run(self, audio: NDArray[np.floating], sample_rate: int, values: dict[str, str]) -> NDArray[np.floating]:
        with tempfile.TemporaryDirectory(prefix="ddsp_la2a-", ignore_cleanup_errors=True) as folder:
            source, target, said = (Path(folder) / name for name in ("input.wav", "output.wav", "said.txt"))
            soundfile.write(str(source), audio, sample_rate, "FLOAT")
            paths = {"input": str(source), "output": str(target)}
            command = [word.format_map(values | paths) for word in self._words]
            reason = self._ran(command, said)
            if not reason:
                output, reason = self._read(target, len(audio), sample_rate)
            if reason:
                end = " ".join(said.read_text(encoding="utf-8", errors="replace").split())[-_SAID_CHARACTERS:]
                last = f"; it said last: {end}" if end else ""
                raise ChildProcessError(f"{shlex.join(command)}: {reason}{last}")
        return output

    def _ran(self, command: list[str], said: Path) -> str:
        """Run it; why that failed, or an empty text."""
        # Into a file, since a pipe stays open as long as any process that the program left behind.
        with said.open("wb") as file:
            try:
                status = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                return f"expected an end within {self.timeout_s:g} s, and it was stopped; give it a longer timeout_s"
            except OSError as error:
                return f"expected a program that can be run, got {error.strerror or error}"
        return f"expected exit status 0, got {status}" if status else ""

    def _read(self, target: Path, frames: int, sample_rate: int) -> tuple[NDArray[np.floating], str]:
        """What it wrote, and why that can't be used, or an empty text."""
        nothing = np.empty(0)
        try:
            output, rate = read_audio(target, mono=False)
        except (FileNotFoundError, ValueError) as error:
            return nothing, str(error)
        if len(output) != 1:
            return nothing, f"expected one channel in its output, got {len(output)}"
        if rate != sample_rate:
            return nothing, f"expected its output at {sample_rate} Hz, got {rate} Hz"
        if output.shape[1] != frames:
            return nothing, f"expected {frames} frames as in its input, got {output.shape[1]}; take its latency out"
        if not np.isfinite(output).all():
            return nothing, "expected finite samples in its output, got NaN or infinity"
        return output[0], ""
