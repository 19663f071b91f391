"""What sightline-serve lets in: mutual TLS on gRPC, plain HTTP for this machine alone, shared memory by request only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sightline_ensemble.serve.cli import main, parser
from sightline_ensemble.serve.outside import Outside, Tls
from sightline_ensemble.serve.running import Running, running
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))
import toy  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl")


@dataclass(frozen=True)
class Keys:
    """An authority, a server's certificate and a client's, PEM files of one folder."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def make(self, name: str, *options: str) -> None:
        line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        line += ["-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.crt"), "-subj", f"/CN={name}", *options]
        subprocess.run(line, check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys"))
    made.make("ca")
    for name in ("server", "client"):
        signed = ("-CA", made.path("ca.crt"), "-CAkey", made.path("ca.key"))
        made.make(name, *signed, "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE")
    made.make("stranger")
    return made


@pytest.fixture(scope="module")
def server(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("toy")
    tls = ("--tls-certificate", keys.path("server.crt"), "--tls-key", keys.path("server.key"), "--tls-clients", keys.path("ca.crt"))
    repository = toy.write(folder / "models")
    with running("--repository", str(repository), "--products", str(folder / "products"), "--host", "0.0.0.0", *tls) as started:
        yield started


def ask(server: Running, keys: Keys, name: str | None) -> bytes:
    own = {"private_key": keys.path(f"{name}.key"), "certificate_chain": keys.path(f"{name}.crt")} if name else {}
    picture = InferInput("IMAGE", [1], "BYTES")
    picture.set_data_from_numpy(np.array([b"x"], object))
    address = f"localhost:{server.grpc.split(':')[1]}"
    with InferenceServerClient(address, ssl=True, root_certificates=keys.path("ca.crt"), **own) as client:
        return client.infer("inspect", [picture], client_timeout=5).as_numpy("REPORT")[0]


def test_only_clients_with_a_signed_certificate_are_answered(server: Running, keys: Keys) -> None:
    assert ask(server, keys, "client") == b"{}"
    for name in (None, "stranger"):
        with pytest.raises(InferenceServerException):
            ask(server, keys, name)


def test_plain_http_stays_inside(server: Running) -> None:
    host, port = server.http.split(":")
    assert host == "127.0.0.1" and server.grpc.startswith("0.0.0.0:")
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A"}
    assert f"0100007F:{int(port):04X}" in listening and f"00000000:{int(port):04X}" not in listening


@pytest.mark.parametrize(
    "words, said",
    [
        (["--tls-certificate", "a.crt"], "TLS needs --tls-certificate and --tls-key, both"),
        (["--tls-clients", "a.crt"], "TLS needs --tls-certificate and --tls-key, both"),
        (["--tls-certificate", "a.crt", "--tls-key", "a.key"], "no file at a.crt, expected a PEM file"),
    ],
)
def test_tls_by_halves_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err == f"sightline-serve: {said}\n"


def test_arguments() -> None:
    assert parser().parse_args([]).shared_memory is False
    assert parser().parse_args([]).connection_seconds == 300 and "--grpc-max-connection-age=300000" in Outside().arguments(wheel=True)
    shut, opened = Outside(connection_seconds=0).arguments(wheel=False), Outside(shared_memory=True)
    assert all("model-repository,trace,logging,shared-memory:sightline-key=" in line for line in shut) and len(shut) == 2
    assert opened.arguments(wheel=False)[-1] == "--allow-client-shm=true" and "shared-memory" not in " ".join(opened.arguments(wheel=True))
    traces = Outside(trace_url="http://collector:4318/v1/traces", trace_rate=7).arguments(wheel=True)
    assert "--grpc-header-forward-pattern=traceparent" in traces
    told = Outside(trace_url="http://collector:4318/v1/traces").environment()
    assert Outside().environment() == {} and told == {"SIGHTLINE_TRACES": "http://collector:4318/v1/traces"}
    assert "--trace-config=opentelemetry,url=http://collector:4318/v1/traces" in traces and "--trace-config=rate=7" in traces
    assert Tls(Path("c"), Path("k")).arguments()[0] == "--grpc-use-ssl=true" and Outside().http_host("0.0.0.0") == "0.0.0.0"
