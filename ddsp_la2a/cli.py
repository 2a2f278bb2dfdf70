"""The command line. Errors are one line and exit status 2."""

from __future__ import annotations

from importlib import import_module

import click

import ddsp_la2a as la
from ddsp_la2a.console import run_command

_MODULES = {
    "fetch": "fetch",
    "index": "data",
    "check": "data",
    "capture": "capture",
    "fit": "fit",
    "evaluate": "fit",
    "compare": "fit",
    "demo": "fit",
    "curves": "curves",
    "measure": "measure",
    "tones": "measure",
    "process": "process",
    "export": "export",
}
"""Where the commands live, by name. One is imported when it is asked for: not all of them need torch."""


class _Commands(click.Group):
    def list_commands(self, _: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return None
        found: click.Command = getattr(import_module(f"ddsp_la2a.cli_{_MODULES[name]}"), name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(la.__version__, prog_name="ddsp-la2a")
def command() -> None:
    """Fit, look at and use explicit models of the LA-2A levelling amplifier."""


def main() -> None:
    """Entry point."""
    run_command(command, "ddsp-la2a")
