"""A source and a sink that speak HTTP: snapshot and webhook."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from .parts import Load, Record, Shot, SourceError

HTTP_ERRORS = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)


@dataclass
class Snapshot:
    """A camera or smart sensor that gives its picture over HTTP, asked once a takt."""

    url: str
    timeout: float = 2.0
    paced = True

    def open(self) -> None:
        self._count = 0

    def take(self) -> Shot:
        try:
            with urllib.request.urlopen(self.url, timeout=self.timeout) as answer:
                picture = answer.read()
        except HTTP_ERRORS as error:
            raise SourceError(f"{self.url}: {type(error).__name__}: {error}") from error
        if not picture:
            raise SourceError(f"{self.url}: an empty picture")
        self._count += 1
        return Shot(picture, f"snapshot-{self._count:06d}")

    def close(self) -> None:
        pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would go on as a GET without the record; refused, it is the HTTP error that it is."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Webhook:
    """POSTs each record as JSON; any 2xx means that it was received. `Idempotency-Key` is the same when it is sent again."""

    url: str
    timeout: float = 5.0
    full: bool = False
    headers: dict[str, Any] = field(default_factory=dict)

    def open(self) -> None:
        self._opener = urllib.request.build_opener(_NoRedirect)

    def deliver(self, record: Record, picture: Load) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{record.history}-{record.seq}", **self.headers}
        request = urllib.request.Request(self.url, record.json(self.full).encode(), headers, method="POST")
        with self._opener.open(request, timeout=self.timeout):
            pass

    def close(self) -> None:
        pass
