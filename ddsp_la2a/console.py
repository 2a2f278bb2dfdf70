"""What the commands share: a word on standard error, a bar for what takes a while, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import click
from tqdm import tqdm

from ddsp_la2a.interrupts import termination_interrupts


def say(text: str) -> None:
    """A line on standard error, where results aren't."""
    click.echo(text, err=True)


def bar(description: str, unit: str) -> Callable[[int, int], None]:
    """A progress callback of (done, total) that draws a bar from its first call on, unless all is done already."""
    return _drawing(partial(tqdm, desc=description, unit=unit))


def audio_bar(description: str) -> Callable[[int, int], None]:
    """The same for seconds of audio: minutes, time left and how many times faster than it plays."""
    return _drawing(partial(_AudioBar, desc=description, bar_format=_AUDIO_FORMAT, smoothing=0.0))


def _drawing(new: Callable[..., Any]) -> Callable[[int, int], None]:
    drawn: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal drawn
        if drawn is None:
            if done == total:
                return
            drawn = new(total=total, initial=done)
        drawn.update(done - drawn.n)
        if done == total:
            drawn.close()

    return progress


_AUDIO_FORMAT = "{l_bar}{bar}| {minutes} min of audio [{elapsed}<{remaining}, {speed}]"


class _AudioBar(tqdm):
    @property
    def format_dict(self) -> dict[str, Any]:
        state = super().format_dict
        seconds, elapsed = state["n"] - state["initial"], state["elapsed"]
        speed = f"{seconds / elapsed:,.0f} × real time" if seconds and elapsed else "…"
        return state | {"minutes": f"{state['n'] / 60:.0f}/{state['total'] / 60:.0f}", "speed": speed}


def run_command(command: click.Command, name: str) -> None:
    """Run a command with the process' arguments; a user's mistake becomes one line and exit status 2.

    Args:
        command: without arguments it shows its help.
        name: what it is called, before the message.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        with termination_interrupts(), _joined():
            command(sys.argv[1:] or ["--help"], prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        _fail(name, error.format_message())
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(130)
    except (ValueError, OSError) as error:
        if getattr(error, "told", False):  # of several processes the first one has said it
            sys.exit(2)
        _fail(name, str(error))


def _joined() -> AbstractContextManager[None]:
    """Of several processes; a single one needn't wait for torch."""
    if "WORLD_SIZE" not in os.environ:
        return nullcontext()
    from ddsp_la2a.fitting.distributed import joined

    return joined()


def _fail(name: str, message: str) -> None:
    say(f"{name}: error: {' '.join(message.split())}")
    sys.exit(2)
