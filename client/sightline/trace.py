"""Names of a request: its id, and its place in a W3C trace (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
import secrets
import uuid

from .errors import InvalidInput

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def request_id(given: str | None) -> str:
    """The caller's own id, or a new one."""
    if given is None:
        return str(uuid.uuid4())
    if not given or not given.isprintable():
        raise InvalidInput(f"request_id: expected printable text, got {given!r}", "INVALID_ARGUMENT")
    return given


def traceparent(given: str | None, make: bool) -> str | None:
    """The caller's own header, a new one that asks to be sampled, or None."""
    if given is None:
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01" if make else None
    if not _TRACEPARENT.fullmatch(given):
        raise InvalidInput(f"traceparent: expected 00-<32 hex>-<16 hex>-<2 hex>, got {given!r}", "INVALID_ARGUMENT")
    return given
