"""A server that stops is no fault of a step: try another one."""

from __future__ import annotations

import grpc
import pytest
from sightline.errors import Unreachable, from_status

SAID = (
    (grpc.StatusCode.UNAVAILABLE, "in ensemble 'inspect', UNAVAILABLE: the server is stopping, try another one"),
    (grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model has stopped accepting new inference requests"),
    (grpc.StatusCode.INTERNAL, "Server is stopping, scheduler for model has stopped accepting new inference requests"),
    (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'inspect' has no available versions"),
)


@pytest.mark.parametrize("code, line", SAID)
def test_stopping(code: grpc.StatusCode, line: str) -> None:
    error = from_status(code, line, "line:8001")
    assert type(error) is Unreachable and error.transient and error.status == "UNAVAILABLE"
    assert error.message.startswith("no answer from line:8001 (")
