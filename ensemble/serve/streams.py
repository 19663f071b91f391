"""Are streams served? tritonserver 24.10 has one thread for all of them, and a client's cancellation may stop it for good.

Nothing else shows it: single requests go on (stream_infer_handler.cc: the handler waits for the lock of a response that waits for its
own, server#8034; later servers are mended). A canary is a client, so it speaks gRPC as ours does.
"""

from __future__ import annotations

from dataclasses import dataclass

from sightline_ensemble.serve.launcher import Settings

RETRY_SECONDS = 1.0
NOBODY = "canary"


@dataclass
class Streams:
    """When they are tried, and how often in a row they were not served. Seconds of a monotonic clock.

    Args:
        address: of the gRPC port; None: they cannot be tried, because a certificate is asked for.
    """

    address: str | None
    period: float
    next_at: float
    misses: int = 0

    def due(self, now: float) -> bool:
        return self.address is not None and now >= self.next_at

    def outcome(self, now: float, served: bool) -> str:
        """Empty to go on; otherwise why the server must be restarted."""
        self.misses = 0 if served else self.misses + 1
        self.next_at = now + (self.period if served else RETRY_SECONDS)
        return "streams are not served" if self.misses > 1 else ""


def address(settings: Settings) -> str | None:
    """Of the gRPC port, for a client without a certificate."""
    return None if settings.outside.tls else f"{settings.host.replace('0.0.0.0', '127.0.0.1')}:{settings.ports.grpc}"


def served(address: str | None, seconds: float) -> bool:
    """Asks a stream that nobody has to end: no inspection, answered at once. An error is an answer too."""
    import grpc
    from sightline.protocol import Service
    from sightline.wire import leaving

    with grpc.insecure_channel(address) as channel:
        try:
            for _ in Service(channel).ModelStreamInfer(iter((leaving(NOBODY),)), timeout=seconds):
                pass
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    return True
