"""Records to an MQTT broker (extra `mqtt`).

`TOPIC/part` gets each record as JSON; `TOPIC/online`, retained, is 1 or, by the broker itself when the line is gone, 0.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from .parts import Load, Record


@dataclass
class Mqtt:
    """
    Args:
        qos: 2: the broker takes each message once; 1: at least once; 0 is refused, for then nobody knows.
        full: with the masks' run lengths. timeout: seconds until a delivery counts as failed.
        client_id: the session's name, one for each line; the broker and the library finish an interrupted delivery by it.
        root, key, chain: PEM files; with `root` the connection is TLS.
    """

    host: str
    topic: str
    port: int = 1883
    qos: int = 2
    full: bool = False
    client_id: str | None = None
    user: str | None = None
    password: str | None = None
    root: Path | None = None
    key: Path | None = None
    chain: Path | None = None
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.qos not in (1, 2):
            raise ValueError(f"qos: expected 1 or 2, got {self.qos}")
        self._client: paho.Client | None = None
        self._sent: tuple[int, paho.MQTTMessageInfo] | None = None
        self._connected = threading.Event()

    def open(self) -> None:
        """Waits for the connection; the library keeps it up from then on."""
        if self._client is None:
            self._client = self._make()
            self._client.connect_async(self.host, self.port, keepalive=15)
            self._client.loop_start()
        if not self._connected.wait(self.timeout):
            raise ConnectionError(f"no MQTT broker at {self.host}:{self.port}")

    def deliver(self, record: Record, picture: Load) -> None:
        """A record that was handed to the library is not handed over again: the library repeats it until the broker has it."""
        assert self._client is not None
        if self._sent is None or self._sent[0] != record.seq:
            self._sent = record.seq, self._client.publish(f"{self.topic}/part", record.json(self.full), qos=self.qos)
        info = self._sent[1]
        info.wait_for_publish(self.timeout)
        if not info.is_published():
            raise TimeoutError(f"the broker at {self.host}:{self.port} has not taken record {record.seq} yet")
        self._sent = None

    def close(self) -> None:
        """Keeps the session where a delivery is under way, so that the library can finish it."""
        if self._client is None or self._sent is not None:
            return
        if self._client.is_connected():
            self._client.publish(f"{self.topic}/online", b"0", qos=1, retain=True).wait_for_publish(self.timeout)
        self._client.disconnect()
        self._client.loop_stop()
        self._client = None
        self._connected.clear()

    def _make(self) -> paho.Client:
        name = self.client_id or f"sightline-{self.topic.replace('/', '-')}"
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        client.reconnect_delay_set(min_delay=1, max_delay=5)
        client.will_set(f"{self.topic}/online", b"0", qos=1, retain=True)
        if self.user is not None:
            client.username_pw_set(self.user, self.password)
        if self.root is not None:
            client.tls_set(str(self.root), str(self.chain) if self.chain else None, str(self.key) if self.key else None)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self._connected.clear()
        return client

    def _on_connect(self, client: paho.Client, userdata: object, flags: object, reason: object, properties: object) -> None:
        if not getattr(reason, "is_failure", True):
            client.publish(f"{self.topic}/online", b"1", qos=1, retain=True)
            self._connected.set()
