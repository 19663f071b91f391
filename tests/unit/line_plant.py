"""What stands around a line: an MQTT broker, OPC UA and Modbus servers with the program of a PLC on them, a webhook's receiver."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import paho.mqtt.client as paho
from amqtt.broker import Broker
from asyncua import ua
from asyncua.sync import Server
from paho.mqtt.enums import CallbackAPIVersion
from pymodbus.client import ModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

ACK = 20


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(20)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)


@dataclass
class Heard:
    """What the other side of a sink has got, in its order."""

    got: list[Any] = field(default_factory=list)


@contextlib.contextmanager
def broker(port: int) -> Iterator[None]:
    loop = Loop()
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    config = {"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, "plugins": plugins}

    async def start() -> Broker:
        made = Broker(config)
        await made.start()
        return made

    started = loop.run(start())
    try:
        yield
    finally:
        loop.run(started.shutdown())
        loop.close()


@contextlib.contextmanager
def listener(port: int, topic: str) -> Iterator[Heard]:
    """A subscriber of `topic` and of what is below it."""
    heard, subscribed = Heard(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener")
    client.on_connect = lambda *_: client.subscribe(f"{topic}/#", qos=2)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _, __, message: heard.got.append((message.topic, json.loads(message.payload), message.retain))
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(10)
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


class Opc:
    """An OPC UA server whose program notes each new record and acknowledges it."""

    TYPES = {
        "Part": ua.VariantType.UInt32, "Outcome": ua.VariantType.Byte, "Score": ua.VariantType.Float, "Defects": ua.VariantType.Int16,
        "Correction": ua.VariantType.Boolean, "Name": ua.VariantType.String, "Text": ua.VariantType.String,
        "Seq": ua.VariantType.UInt32, "Ack": ua.VariantType.UInt32,
    }  # fmt: skip

    def __init__(self, port: int) -> None:
        self.url, self.got = f"opc.tcp://127.0.0.1:{port}", Heard()
        self._server = Server()
        self._server.set_endpoint(self.url)
        space = self._server.register_namespace("plant")
        self.prefix = f"ns={space};s=Sightline."
        folder = self._server.nodes.objects.add_folder(space, "Sightline")
        blank = {ua.VariantType.String: "", ua.VariantType.Boolean: False, ua.VariantType.Float: 0.0}
        self.nodes = {}
        for name, kind in self.TYPES.items():
            node = folder.add_variable(f"{self.prefix}{name}", name, ua.Variant(blank.get(kind, 0), kind))
            node.set_writable()
            self.nodes[name] = node
        self._server.start()
        self._end = threading.Event()
        self._program = threading.Thread(target=self._run)
        self._program.start()

    def _run(self) -> None:
        last = 0
        while not self._end.wait(0.005):
            seq = self.nodes["Seq"].read_value()
            if seq != last:
                last = seq
                self.got.got.append({name: node.read_value() for name, node in self.nodes.items() if name != "Ack"})
                self.nodes["Ack"].write_value(ua.Variant(seq, ua.VariantType.UInt32))

    def stop(self) -> None:
        self._end.set()
        self._program.join()
        self._server.stop()


class Plc:
    """A Modbus server, and a program beside it that reads each new block and acknowledges it."""

    def __init__(self, port: int, heard: Heard) -> None:
        self.port, self.got = port, heard
        self._loop = Loop()
        self._server = self._loop.run(self._start())
        self._end = threading.Event()
        self._program = threading.Thread(target=self._run)
        self._program.start()

    async def _start(self) -> ModbusTcpServer:
        device = SimDevice(1, [SimData(0, count=40, values=0, datatype=DataType.REGISTERS)])
        server = ModbusTcpServer(device, address=("127.0.0.1", self.port))
        await server.serve_forever(background=True)
        return server

    def _run(self) -> None:
        client = ModbusTcpClient("127.0.0.1", port=self.port)
        while not client.connect():
            time.sleep(0.01)
        last = 0
        while not self._end.wait(0.005):
            block = client.read_holding_registers(0, count=12).registers
            if block[1] != last:
                last = block[1]
                self.got.got.append(block)
                client.write_registers(ACK, [last])
        client.close()

    def stop(self) -> None:
        self._end.set()
        self._program.join()
        self._loop.run(self._server.shutdown())
        self._loop.close()


@contextlib.contextmanager
def receiver(heard: Heard, refuse: Iterator[bool]) -> Iterator[str]:
    """The address of a webhook that answers 503 where `refuse` says so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 - the library's name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            refused = next(refuse, False)
            if not refused:
                heard.got.append((self.headers["Idempotency-Key"], body))
            self.send_response(503 if refused else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/parts"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
