"""Options of the whole suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", metavar="HOST:PORT", help="gRPC address of a running server to test, instead of one of our own")
