"""Checks every public input of a request in the first step, so that errors come before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np

from .contract import MAX_HISTORY_TURNS, MAX_POINTS, MAX_PROMPT_CHARACTERS, MAX_REFERENCES, MAX_TOKENS_LIMIT, PRODUCT_NAME
from .errors import invalid
from .picture import open_picture
from .steps import as_bytes, as_text

MAX_HISTORY_CHARACTERS = MAX_HISTORY_TURNS * 4 * MAX_PROMPT_CHARACTERS


def request(inputs: Mapping[str, np.ndarray]) -> None:
    """RequestError INVALID_ARGUMENT, naming the input, where anything but IMAGE, BOX and POINTS is not as the contract says."""
    prompt(inputs.get("PROMPT"), "PROMPT")
    prompt(inputs.get("EXPERT"), "EXPERT")
    history(inputs.get("HISTORY"))
    max_tokens(inputs.get("MAX_TOKENS"))
    if "PRODUCT" in inputs:
        product_name(inputs["PRODUCT"], "PRODUCT")
    references(inputs.get("REFERENCE"))


def prompt(value: np.ndarray | None, name: str) -> str | None:
    """The text, at most 2000 characters; None where it is absent or blank."""
    text = as_text(value, name)
    if text is not None and len(text) > MAX_PROMPT_CHARACTERS:
        raise invalid(name, f"{len(text)} characters, expected at most {MAX_PROMPT_CHARACTERS}")
    return text if text and text.strip() else None


def history(value: np.ndarray | None) -> list[dict[str, str]]:
    """The earlier turns, oldest first."""
    text = as_text(value, "HISTORY")
    if text is None:
        return []
    expected = 'expected a JSON list of {"role": "user" or "assistant", "content": text}'
    try:
        turns = json.loads(text) if len(text) <= MAX_HISTORY_CHARACTERS else None
    except (ValueError, RecursionError):
        raise invalid("HISTORY", f"not JSON, {expected}") from None
    if turns is None:
        raise invalid("HISTORY", f"{len(text)} characters, expected at most {MAX_HISTORY_CHARACTERS}")
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise invalid("HISTORY", expected)
    if len(turns) > MAX_HISTORY_TURNS:
        raise invalid("HISTORY", f"{len(turns)} turns, expected at most {MAX_HISTORY_TURNS}")
    return turns


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and turn["role"] in ("user", "assistant")
        and isinstance(turn["content"], str)
        and _is_unicode(turn["content"])
    )


def _is_unicode(text: str) -> bool:
    """JSON can write half a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def max_tokens(value: np.ndarray | None) -> None:
    if value is not None and not 1 <= int(value.reshape(-1)[0]) <= MAX_TOKENS_LIMIT:
        raise invalid("MAX_TOKENS", f"{int(value.reshape(-1)[0])}, expected 1 to {MAX_TOKENS_LIMIT}")


def product_name(value: np.ndarray | None, name: str) -> str:
    text = (as_bytes(value) or b"").decode("utf-8", "replace")
    if not re.fullmatch(PRODUCT_NAME, text):
        raise invalid(name, "expected a name of 1 to 64 characters of a-z 0-9 - _")
    return text


def references(value: np.ndarray | None) -> None:
    if value is None:
        return
    if not 1 <= value.size <= MAX_REFERENCES:
        raise invalid("REFERENCE", f"{value.size} pictures, expected 1 to {MAX_REFERENCES}")
    for index, content in enumerate(value.reshape(-1)):
        open_picture(content, f"REFERENCE[{index}]")


def points(value: np.ndarray | None, height: int, width: int) -> np.ndarray:
    """float32 [n, 3] x, y, label; [0, 3] where none are given."""
    if value is None:
        return np.zeros((0, 3), np.float32)
    if not 1 <= len(value) <= MAX_POINTS:
        raise invalid("POINTS", f"{len(value)} points, expected 1 to {MAX_POINTS}")
    if not np.isfinite(value).all():
        raise invalid("POINTS", "expected finite numbers x, y, label")
    if not np.isin(value[:, 2], (0, 1)).all():
        raise invalid("POINTS", "expected labels 1 (foreground) or 0 (background)")
    if (value[:, :2] < 0).any() or (value[:, 0] > width).any() or (value[:, 1] > height).any():
        raise invalid("POINTS", f"outside of the picture, expected points within {width} x {height} pixels")
    return value.astype(np.float32)
