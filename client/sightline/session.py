"""A dialogue about one picture, with its memory."""

from __future__ import annotations

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
    """What is remembered: the picture, what holds for each question, and the turns so far."""

    def __init__(self, image: Picture, options: Options) -> None:
        self.image = encode(image)  # once, and as it is now: a camera may write the file again
        self.history: list[dict[str, str]] = list(map(dict, options.get("history") or ()))
        self._options = options

    def forget(self) -> None:
        """Begins anew with the same picture."""
        self.history.clear()

    def _asking(self, question: str | None) -> Options:
        return {**self._options, "prompt": question or self._options.get("prompt"), "history": self.history or None}

    def _remember(self, question: str | None, report: Report) -> None:
        self.history += [{"role": "user", "content": question or report.prompt}, {"role": "assistant", "content": report.text}]
        del self.history[:-HISTORY_LIMIT]


class Chat(Dialogue):
    """`Client.chat`. A question that was not answered leaves no trace in the history."""

    def __init__(self, client: Client, image: Picture, options: Options) -> None:
        super().__init__(image, options)
        self._client = client

    def ask(self, question: str | None = None) -> Report:
        """The answer to a question; without one it asks for anomalies."""
        report = self._client.inspect(self.image, **self._asking(question))
        self._remember(question, report)
        return report

    def stream(self, question: str | None = None) -> Iterator[Event]:
        """The same as events, as `Client.stream` gives them."""
        for event in self._client.stream(self.image, **self._asking(question)):
            if isinstance(event, Complete):
                self._remember(question, event.report)
            yield event


class AsyncChat(Dialogue):
    """`aio.Client.chat`: the same, awaited."""

    def __init__(self, client: aio.Client, image: Picture, options: Options) -> None:
        super().__init__(image, options)
        self._client = client

    async def ask(self, question: str | None = None) -> Report:
        report = await self._client.inspect(self.image, **self._asking(question))
        self._remember(question, report)
        return report

    async def stream(self, question: str | None = None) -> AsyncIterator[Event]:
        async for event in self._client.stream(self.image, **self._asking(question)):
            if isinstance(event, Complete):
                self._remember(question, event.report)
            yield event
