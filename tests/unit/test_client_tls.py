"""TLS and mutual TLS of both clients against a server in this process."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import sightline
from client_fake import FakeTriton, answer
from sightline import Tls, names
from sightline.cli import main
from sightline.web.plant import Plant, Setup

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates that it has signed for a server named `plant` and for a client."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ca", "server", "client"):
        line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        line += ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}"]
        if name != "ca":
            line += ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:plant"]
            line += ["-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run(line, check=True, capture_output=True, cwd=folder)
    return folder


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
def server(request: pytest.FixtureRequest, keys: Path) -> Iterator[FakeTriton]:
    own = [((keys / "server.key").read_bytes(), (keys / "server.crt").read_bytes())]
    authority = (keys / "ca.crt").read_bytes()
    credentials = grpc.ssl_server_credentials(own, authority if request.param else None, request.param)
    fake = FakeTriton(answer, credentials=credentials)
    fake.mutual = request.param
    yield fake
    fake.stop()


def test_who_shows_the_right_certificates_is_answered(server: FakeTriton, keys: Path) -> None:
    files = Tls(root=keys / "ca.crt", key=str(keys / "client.key"), chain=keys / "client.crt", name="plant")
    content = Tls((keys / "ca.crt").read_bytes(), (keys / "client.key").read_bytes(), (keys / "client.crt").read_bytes(), "plant")
    for tls in (files, content):
        with sightline.Client(server.url, timeout=10, tls=tls) as client:
            assert client.inspect(b"bad").anomaly

    async def talk() -> bool:
        async with sightline.aio.Client(server.url, timeout=10, tls=files) as client:
            return (await client.inspect(b"bad")).anomaly

    assert asyncio.run(talk())


def test_a_certificate_is_for_the_name_whose_address_is_asked(server: FakeTriton, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = server.url.split(":")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))]
    monkeypatch.setattr(names.socket, "getaddrinfo", lambda *_, **__: found)
    for name, given in (("plant", None), ("another", "plant")):
        tls = Tls(keys / "ca.crt", keys / "client.key", keys / "client.crt", given)
        with sightline.Client(f"dns:///{name}:8001", timeout=10, tls=tls) as client:
            assert client.inspect(b"bad").anomaly
    with sightline.Client("dns:///another:8001", timeout=10, tls=Tls(keys / "ca.crt", keys / "client.key", keys / "client.crt")) as client:
        with pytest.raises(sightline.Unreachable):
            client.inspect(b"bad")


def test_who_does_not_is_refused(server: FakeTriton, keys: Path) -> None:
    refused = [None, Tls(root=keys / "client.crt", name="plant"), Tls(root=keys / "ca.crt", name="another")]
    refused += [Tls(root=keys / "ca.crt", name="plant")] if server.mutual else []
    for tls in refused:
        with sightline.Client(server.url, timeout=5, tls=tls) as client, pytest.raises(sightline.Unreachable):
            client.inspect(b"bad")
    assert not server.calls


def test_halves_and_missing_files_are_said() -> None:
    with pytest.raises(sightline.InvalidInput, match="both"):
        sightline.Client(tls=Tls(key=b"key"))
    with pytest.raises(sightline.InvalidInput, match="root absent.pem"):
        sightline.Client(tls=Tls(root="absent.pem"))


def options(keys: Path, mutual: bool = True) -> list[str]:
    own = ["--tls-key", str(keys / "client.key"), "--tls-chain", str(keys / "client.crt")]
    return ["--tls-root", str(keys / "ca.crt"), "--tls-name", "plant", *(own if mutual else [])]


def test_the_command_speaks_tls(server: FakeTriton, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "in" / "bad.png"
    picture.parent.mkdir()
    picture.write_bytes(b"bad")
    url = ["--url", server.url, "--timeout", "5"]
    assert main(["inspect", str(picture), *url]) == 2, "the server takes no plain connection"
    assert main(["inspect", str(picture), *url, *options(keys)]) == 1
    assert main(["inspect", str(picture), *url, *options(keys, mutual=False)]) == (2 if server.mutual else 1)
    assert main(["watch", str(picture.parent), "--out", str(tmp_path / "out"), "--once", *url, *options(keys)]) == 1
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text())["report"]["verdict"] == "anomaly"
    pages: list[Setup] = []
    monkeypatch.setitem(sys.modules, "sightline.web.app", SimpleNamespace(serve=pages.append))
    assert main(["web", *url, *options(keys)]) == 0
    with Plant(pages[0]).client("") as client:
        assert client.inspect(b"bad").anomaly
