"""`sightline-serve`: starts tritonserver, supervises it, and stops it cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sightline_ensemble.serve import launcher, processes
from sightline_ensemble.serve.health import Health
from sightline_ensemble.serve.launcher import Ports, ServeError, Settings
from sightline_ensemble.serve.log import Log
from sightline_ensemble.serve.outside import Outside, Tls
from sightline_ensemble.serve.supervisor import Supervisor

_PORTS = (("grpc", 8001, "gRPC"), ("http", 8000, "HTTP"), ("metrics", 8002, "metrics"), ("health", 8003, "/ready, /live and /metrics"))
CACHE_BYTES = 128 * 2**20  # some 70 pictures of the tiny profile


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="sightline-serve", description="Serve the model repository with tritonserver, supervised.")
    add = top.add_argument
    add("--repository", type=Path, default=Path("model_repository"), help="model repository (default: %(default)s)")
    add("--profile", help="artefacts to serve (default: the only ones there are)")
    add("--products", type=Path, default=Path("products"), help="directory of enrolled products (default: %(default)s)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: %(default)s)")
    for name, port, what in _PORTS:
        add(f"--{name}-port", type=_port, default=port, metavar="N", help=f"{what} (default: %(default)s; 0: any free port)")
    add("--config", metavar="NAME", help="configs/NAME.pbtxt of each model (default: by the GPU's memory, cpu without one)")
    what = "memory for pictures' features, so that a second question about one costs less (default: %(default)s; 0: none)"
    add("--cache-bytes", type=int, default=CACHE_BYTES, metavar="N", help=what)
    add("--canary-seconds", type=float, default=30.0, metavar="S", help="test inference after so long without one (default: %(default)g)")
    add("--start-seconds", type=float, default=300.0, metavar="S", help="how long loading the models may take (default: %(default)g)")
    add("--exit-seconds", type=int, default=10, metavar="S", help="how long running requests may take at the end (default: %(default)s)")
    what = "a gRPC connection's age at which its client makes a new one, running calls finish (default: %(default)s; 0: never)"
    add("--connection-seconds", type=_seconds, default=Outside.connection_seconds, metavar="S", help=what)
    add("--tls-certificate", type=Path, metavar="FILE", help="PEM: TLS on the gRPC port; HTTP then listens on this machine only")
    add("--tls-key", type=Path, metavar="FILE", help="PEM: the certificate's key")
    add("--tls-clients", type=Path, metavar="FILE", help="PEM: clients must show a certificate that this authority has signed")
    add("--trace-url", default="", metavar="URL", help="OpenTelemetry collector (OTLP over HTTP) that gets a trace of requests")
    add("--trace-rate", type=int, default=0, metavar="N", help="of one request in N; 0: only where a traceparent asks (default)")
    add("--audit", type=Path, metavar="FILE", help="append a line for each verdict: request, artefacts' hashes, prompt's hash, verdict")
    what = "lines for people, or a JSON object a line: time, level, event, message and more (default: %(default)s)"
    add("--log-format", choices=("text", "json"), default="text", help=what)
    add("--shared-memory", action="store_true", help="clients on this machine may hand over tensors in shared memory")
    add("--verbose", action="store_true", help="tritonserver's own information too")
    return top


def _port(text: str) -> int:
    if text.isdigit() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port")


def _seconds(text: str) -> int:
    if text.isdigit() and int(text) <= 1_000_000:  # gRPC counts milliseconds in 32 bits
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number of seconds, 0 to 1000000")


def settings(args: argparse.Namespace, triton: launcher.Triton) -> Settings:
    """Checked settings; ServeError says what is wrong, before anything is started."""
    shown = outside(args)
    if not args.repository.is_dir():
        raise ServeError(f"no model repository at {args.repository}; name it with --repository")
    profile = args.profile or launcher.default_profile(args.repository)
    launcher.check_artefacts(args.repository, profile)
    config = launcher.which_config(triton, args.config)
    launcher.check_plans(args.repository, config, profile)
    args.products.mkdir(parents=True, exist_ok=True)
    ports = Ports(args.grpc_port, args.http_port, args.metrics_port, args.health_port).settled(args.host)
    times = args.cache_bytes, args.exit_seconds
    return Settings(args.repository, profile, args.products, ports, args.host, config, *times, args.verbose, shown, log(args))


def outside(args: argparse.Namespace) -> Outside:
    """ServeError where TLS is asked for by halves or with files that are not there."""
    named = args.tls_certificate, args.tls_key
    if any(named) != all(named) or (args.tls_clients and not all(named)):
        raise ServeError("TLS needs --tls-certificate and --tls-key, both")
    tls = Tls(*named, args.tls_clients) if all(named) else None
    if tls and (missing := tls.missing()):
        raise ServeError(f"no file at {missing[0]}, expected a PEM file")
    if args.audit and not args.audit.parent.is_dir():
        raise ServeError(f"no folder at {args.audit.parent} for the audit's file")
    return Outside(tls, args.trace_url, args.trace_rate, args.shared_memory, args.audit, args.connection_seconds)


def log(args: argparse.Namespace) -> Log:
    return Log(structured=args.log_format == "json")


def serve(args: argparse.Namespace) -> int:
    triton = launcher.find_tritonserver()
    chosen = settings(args, triton)
    processes.adopt_orphans()
    processes.remove_stale_leftovers()
    supervisor = Supervisor(chosen, triton, args.canary_seconds, args.start_seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stop())
    health = Health(chosen.host, chosen.ports.health, lambda: supervisor.status)
    hosts = {"http": chosen.outside.http_host(chosen.host)}
    addresses = {name: f"{hosts.get(name, chosen.host)}:{getattr(chosen.ports, name)}" for name, _, _ in _PORTS}
    line = ", ".join(map(" ".join, addresses.items()))
    chosen.log.say("starting", f"{line}, profile {chosen.profile or 'none'}", **addresses, profile=chosen.profile)
    try:
        return supervisor.run()
    finally:
        health.close()


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return serve(args)
    except ServeError as error:
        log(args).say("refused", str(error), "error")
        return 1


if __name__ == "__main__":
    sys.exit(main())
