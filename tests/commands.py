"""What a command of the command line came to."""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "ddsp-la2a: error: "


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a refused command."""
        lines = [line for line in self.err.splitlines() if line.startswith(PREFIX)]
        assert self.status == 2, self.err
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert "Traceback" not in self.err
        return lines[0].removeprefix(PREFIX)
