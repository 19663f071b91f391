"""What tritonserver lets in and tells to the outside beside its answers: TLS, connections' age, who may use which API, shared memory,
traces."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from sightline_ensemble.audit import AUDIT_VARIABLE
from sightline_ensemble.spans import HEADER, SERVICE, TRACES_VARIABLE


@dataclass(frozen=True)
class Tls:
    """PEM files of the gRPC port. `clients`: the authority that must have signed the clients' certificates (mutual TLS)."""

    certificate: Path
    key: Path
    clients: Path | None = None

    def missing(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.clients) if path is not None and not path.is_file()]

    def arguments(self) -> list[str]:
        line = ["--grpc-use-ssl=true", f"--grpc-server-cert={self.certificate}", f"--grpc-server-key={self.key}"]
        return line + (["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.clients}"] if self.clients else [])


@dataclass(frozen=True)
class Outside:
    """
    Args:
        tls: of the gRPC port; Triton's HTTP has none, so with it HTTP stays on the loopback address.
        trace_url: an OpenTelemetry collector's OTLP over HTTP; empty: no traces.
        trace_rate: one request in so many; 0: only those that bring a `traceparent`, which are traced always.
        shared_memory: clients on this machine may hand tensors over in shared memory.
        audit: the file that gets a line for each verdict.
        connection_seconds: a gRPC connection's age at which its client is asked for another one, so that clients spread over servers
            that came later; 0: never.
    """

    tls: Tls | None = None
    trace_url: str = ""
    trace_rate: int = 0
    shared_memory: bool = False
    audit: Path | None = None
    connection_seconds: int = 300

    def arguments(self, wheel: bool) -> list[str]:
        """Of tritonserver. `wheel`: it is 24.10, where shared memory is open unless restricted and has no switch of its own."""
        secured = self.tls.arguments() if self.tls else []
        return self._restrictions() + self._connections() + self._shared_memory(wheel) + secured + self._traces()

    def environment(self) -> dict[str, str]:
        """Of the steps."""
        audit = {AUDIT_VARIABLE: str(self.audit.resolve())} if self.audit else {}
        return audit | ({TRACES_VARIABLE: self.trace_url} if self.trace_url else {})

    def http_host(self, host: str) -> str:
        return "127.0.0.1" if self.tls else host

    def _restrictions(self) -> list[str]:
        """Who may load models may run code, so the key is nobody's; a name of shared memory may be another request's picture."""
        apis = "model-repository,trace,logging" + ("" if self.shared_memory else ",shared-memory")
        rule = f"{apis}:sightline-key={secrets.token_hex(16)}"
        return [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"]

    def _shared_memory(self, wheel: bool) -> list[str]:
        return ["--allow-client-shm=true"] if self.shared_memory and not wheel else []

    def _connections(self) -> list[str]:
        """No grace is named: gRPC then leaves the old connection to the calls that run on it, however long they take."""
        return [f"--grpc-max-connection-age={1000 * self.connection_seconds}"] if self.connection_seconds else []

    def _traces(self) -> list[str]:
        if not self.trace_url:
            return []
        words = ("mode=opentelemetry", f"opentelemetry,url={self.trace_url}", f"opentelemetry,resource=service.name={SERVICE}")
        words = (*words, "level=TIMESTAMPS", "count=-1", f"rate={self.trace_rate}")
        return [f"--grpc-header-forward-pattern={HEADER}", *(f"--trace-config={word}" for word in words)]
