"""Pages in one file that ask the network for nothing: what their templates share."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any


def template(name: str) -> str:
    """Text of a file beside the templates."""
    return (files("ddsp_la2a.evaluation") / "templates" / name).read_text(encoding="utf-8")


def rendered(
    name: str, *, style: str, script: str = "", filters: Mapping[str, Callable[..., str]], values: Mapping[str, Any]
) -> bytes:
    """A page as UTF-8, whose policy forbids everything but its own style and script.

    Args:
        name: of the template, which gets ``style``, ``script`` and ``policy`` beside its values, and a filter ``drawn``
            for what is markup already.
        style: sheet of the page.
        script: of the page.
        filters: by name.
        values: by name.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=DictLoader({name: template(name)}), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {**filters, "drawn": lambda text: Markup(text)}
    policy = f"default-src 'none'; {f'script-src {_hashed(script)}; ' if script else ''}style-src {_hashed(style)}; "
    text = environment.get_template(name).render(
        **values, style=Markup(style), script=Markup(script), policy=policy + "base-uri 'none'; form-action 'none'"
    )
    # A lone surrogate has no UTF-8; nothing else is replaced.
    return text.encode("utf-8", "replace")


def _hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
