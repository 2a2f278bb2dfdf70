"""Pages in one file that ask the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any


def template(room: str, name: str) -> str:
    """Text of a file among a room's templates."""
    return (files(f"ddsp_la2a.{room}") / "templates" / name).read_text(encoding="utf-8")


def rendered(
    page: str,
    *,
    style: str,
    scripts: Mapping[str, str] | None = None,
    modules: str = "",
    filters: Mapping[str, Callable[..., str]] | None = None,
    values: Mapping[str, Any],
) -> bytes:
    """A page as UTF-8, whose policy forbids everything but its own style and scripts.

    Args:
        page: text of the template, which gets ``style``, ``scripts`` and ``policy`` beside its values, and a filter
            ``drawn`` for what is markup already.
        style: sheet of the page.
        scripts: of the page, by name.
        modules: kinds of address that scripts may come from beside, such as ``blob:``.
        filters: by name.
        values: by name.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {**(filters or {}), "drawn": lambda text: Markup(text)}
    sources = " ".join([*map(policy_hash, (scripts or {}).values()), *modules.split()])
    text = environment.from_string(page).render(
        **values,
        style=Markup(style),
        scripts={name: Markup(script) for name, script in (scripts or {}).items()},
        policy=f"default-src 'none'; {f'script-src {sources}; ' if sources else ''}style-src {policy_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
    )
    # A lone surrogate has no UTF-8; nothing else is replaced.
    return text.encode("utf-8", "replace")


def inert_json(data: Any) -> str:
    """JSON that can't end the element it stands in; all that isn't ASCII is escaped anyway."""
    text = json.dumps(data, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def policy_hash(text: str) -> str:
    """Of an element's text, as a Content-Security-Policy names it."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
