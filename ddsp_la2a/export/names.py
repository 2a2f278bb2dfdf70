"""What a model is called in files, code and hosts: whatever its name is, it stays a name."""

from __future__ import annotations

import re

_LONGEST = 48
_UNNAMED = "model"


def label(text: str) -> str:
    """A name of letters, digits, spaces and ``. _ + -``, which mean nothing in any language that it is put into.

    Others become ``_``, and what is too long is cut.
    """
    plain = re.sub(r"[^A-Za-z0-9 ._+-]", "_", text)[:_LONGEST].strip(" .")
    return plain if re.search(r"[A-Za-z0-9]", plain) else _UNNAMED


def slug(text: str) -> str:
    """A file name of lower-case letters, digits and ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", label(text).lower()).strip("-")


def one_line(text: str) -> str:
    """A comment of printable ASCII on one line that can't end it."""
    words = " ".join(text.encode("ascii", "replace").decode("ascii").split())
    return re.sub(r"[^ A-Za-z0-9.,:;()'_+=/-]", "_", words).replace("/", "_")
