"""What the commands share: a word on standard error, and a bar for what takes a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from tqdm import tqdm


def say(text: str) -> None:
    """A line on standard error, where results aren't."""
    click.echo(text, err=True)


def bar(description: str, unit: str) -> Callable[[int, int], None]:
    """A progress callback of (done, total) that draws a bar from its first call on."""
    drawn: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal drawn
        drawn = drawn or tqdm(total=total, desc=description, unit=unit)
        drawn.update(done - drawn.n)
        if done == total:
            drawn.close()

    return progress
