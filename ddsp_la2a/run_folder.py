"""The folder of a fit that can be interrupted: what it was told, its recordings, where it is, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ddsp_la2a.compare import new_folder
from ddsp_la2a.controls import LA2A_CONTROLS, Control, parse_controls
from ddsp_la2a.data.index import read_frame, write_frame
from ddsp_la2a.files import replacing
from ddsp_la2a.fitting.checkpoint import kept_files

FORMAT_VERSION = 1

_SAID, _FRAME, _CHECKPOINT, _MODEL = "fit.json", "frame.csv", "checkpoint.safetensors", "model.safetensors"


class RunFolder:
    """A fit's folder.

    Args:
        path: of the folder.

    Attributes:
        checkpoint: file that says where the fit is.
        model: file of what came of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint, self.model = path / _CHECKPOINT, path / _MODEL

    @contextmanager
    def begun(self) -> Iterator[None]:
        """A new folder for the time of a fit; if a mistake ends it before there was anything to go on from, no folder.

        Raises:
            ValueError: it isn't empty; names what to do with an interrupted fit in it.
        """
        if (self.path / _SAID).exists():
            raise ValueError(
                f"{self.path}: expected a new or empty folder, got one with a fit in it; "
                f"to go on with that: ddsp-la2a fit --resume {self.path}; for another name another --out"
            )
        with new_folder(self.path):
            try:
                yield
            except (ValueError, OSError):
                if not self.checkpoint.exists() and not self.model.exists():
                    for name in (_SAID, _FRAME):
                        (self.path / name).unlink(missing_ok=True)
                raise

    def write(self, frame: pd.DataFrame, said: Mapping[str, Any]) -> None:
        """Keep what a fit needs to be begun again.

        Args:
            frame: recordings, as they are fitted.
            said: options by name, plain data.
        """
        controls = LA2A_CONTROLS if said["controls"] is None else parse_controls(said["controls"])
        write_frame(frame, self.path / _FRAME, controls)
        self._say({**said, "finished": False})

    def _say(self, said: Mapping[str, Any]) -> None:
        with replacing(self.path / _SAID) as temporary:
            text = json.dumps({"format_version": FORMAT_VERSION, **said}, indent=2, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8", newline="\n")

    def read(self) -> dict[str, Any]:
        """Options of the fit, and whether it is ``finished``.

        Raises:
            ValueError: there is no fit in the folder, or one of another version.
        """
        path = self.path / _SAID
        if not path.is_file():
            raise ValueError(f"{self.path}: expected the --out of a fit, got a folder without {_SAID}; fit anew")
        try:
            said = dict(json.loads(path.read_text(encoding="utf-8")))
            version = said.pop("format_version")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected the options of a fit, got something else ({error!r})") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{path}: expected format version {FORMAT_VERSION}, got {version!r}; fit anew")
        return said

    def frame(self, controls: tuple[Control, ...]) -> pd.DataFrame:
        """Its recordings."""
        return read_frame(self.path / _FRAME, controls)

    def finish(self) -> None:
        """All is there, and nothing to go on with."""
        self._say({**self.read(), "finished": True})
        for path in kept_files(self.checkpoint):
            path.unlink()
