"""A dialogue about one picture, with its memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from .calls import Options
from .pictures import Picture, encode
from .report import Complete, Event, Report

if TYPE_CHECKING:
    from . import aio
    from .client import Client

HISTORY_LIMIT = 32  # turns, as the contract has it


class Dialogue:
    """What is remembered: what holds for each question, and the turns so far."""

    def __init__(self, options: Options) -> None:
        self.history: list[dict[str, str]] = list(map(dict, options.get("history") or ()))
        self._options = options

    def forget(self) -> None:
        """Begins anew about the same picture."""
        self.history.clear()

    def _asking(self, question: str | None) -> Options:
        return {**self._options, "prompt": question or self._options.get("prompt"), "history": self.history or None}

    def _remember(self, question: str | None, report: Report) -> None:
        self.history += [{"role": "user", "content": question or report.prompt}, {"role": "assistant", "content": report.text}]
        del self.history[:-HISTORY_LIMIT]


class Chat(Dialogue):
    """`Client.chat`. A question that was not answered leaves no trace in the history."""

    def __init__(self, client: Client, image: Picture, options: Options) -> None:
        super().__init__(options)
        self._client = client
        self._image = encode(image)  # once, and as it is now: a camera may write the file again

    def ask(self, question: str | None = None) -> Report:
        """The answer to a question; without one it asks for anomalies."""
        report = self._client.inspect(self._image, **self._asking(question))
        self._remember(question, report)
        return report

    def stream(self, question: str | None = None) -> Iterator[Event]:
        """The same as events, as `Client.stream` gives them."""
        for event in self._client.stream(self._image, **self._asking(question)):
            if isinstance(event, Complete):
                self._remember(question, event.report)
            yield event


class AsyncChat(Dialogue):
    """`aio.Client.chat`: the same, awaited. The picture is read with the first question, beside the event loop, and kept."""

    def __init__(self, client: aio.Client, image: Picture, options: Options) -> None:
        super().__init__(options)
        self._client, self._image = client, image

    async def _encoded(self) -> bytes:
        if not isinstance(self._image, bytes):
            self._image = await asyncio.to_thread(encode, self._image)
        return self._image

    async def ask(self, question: str | None = None) -> Report:
        report = await self._client.inspect(await self._encoded(), **self._asking(question))
        self._remember(question, report)
        return report

    async def stream(self, question: str | None = None) -> AsyncIterator[Event]:
        async for event in self._client.stream(await self._encoded(), **self._asking(question)):
            if isinstance(event, Complete):
                self._remember(question, event.report)
            yield event
