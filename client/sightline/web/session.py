"""What one user is doing: the picture, what was asked about it, and the answer. Each step makes a new one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from PIL import Image

from ..feedback import Mark
from ..report import Box, Report
from ..session import Chat

Point = tuple[float, float]


@dataclass(frozen=True)
class Session:
    """`seen`: the picture as it is shown; None where only the server can say what it is. `scale`: pixels shown per pixel of the
    picture. `corner`: the first of a box's two clicks. `product`, `box`, `references`: what `report` was asked with."""

    name: str = ""
    picture: bytes = field(default=b"", repr=False)
    seen: Image.Image | None = field(default=None, repr=False)
    scale: float = 1.0
    corner: Point | None = None
    product: str | None = None
    box: Box | None = None
    references: int = 0
    report: Report | None = field(default=None, repr=False)
    chat: Chat | None = field(default=None, repr=False)
    mark: Mark | None = None

    def without_answer(self) -> Session:
        return replace(self, report=None, chat=None, mark=None, product=None, box=None, references=0)


class Update(TypedDict, total=False):
    """What an action changes on the page, by the names that `page` gives its components; what is left out stays as it is."""

    session: Session
    upload: None
    view: Image.Image | None
    hint: str
    box: str
    banner: str
    result: Image.Image | None
    layer: str
    chat: list[dict[str, str]]
    question: str
    effect: str
    report: dict[str, Any] | None
    alarm: bool
    learn: bool
    missed: bool
    running: bool
    server: str
    choices: list[str]
    listing: str
    outcome: str
