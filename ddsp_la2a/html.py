"""What stands inside a page that is one file: data that stays data, and hashes of what it may run."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any


def inert_json(data: Any) -> str:
    """JSON that can't end the element it stands in; all that isn't ASCII is escaped anyway."""
    text = json.dumps(data, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def policy_hash(text: str) -> str:
    """Of an element's text, as a Content-Security-Policy names it."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
