"""TLS and mutual TLS of the connection."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc

from .errors import InvalidInput

Pem = str | PathLike[str] | bytes
"""A PEM file's path or its content."""


@dataclass(frozen=True)
class Tls:
    """
    Args:
        root: certificates of the authorities that may have signed the server's; None: those that gRPC brings along.
        key, chain: the client's own key and certificate chain, both, where the server asks for them (mutual TLS).
        name: the name in the server's certificate, where its address is another one.
    """

    root: Pem | None = None
    key: Pem | None = None
    chain: Pem | None = None
    name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        if (self.key is None) != (self.chain is None):
            raise InvalidInput("tls: mutual TLS needs the key and the chain, both", "INVALID_ARGUMENT")
        return grpc.ssl_channel_credentials(_content(self.root, "root"), _content(self.key, "key"), _content(self.chain, "chain"))

    def options(self) -> tuple[tuple[str, str], ...]:
        return (("grpc.ssl_target_name_override", self.name),) if self.name else ()


def _content(pem: Pem | None, name: str) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    try:
        return Path(pem).read_bytes()
    except OSError as error:
        raise InvalidInput(f"tls: cannot read {name} {pem}: {error.strerror}", "INVALID_ARGUMENT") from error
