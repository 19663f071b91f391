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
        root, key, chain: PEM files; with any of them the connection is TLS. Without `root` the system's authorities are trusted.
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
        if self.key is not None and self.chain is None:
            raise ValueError("key: its certificate is missing, give chain too")
        self._client: paho.Client | None = None
        self._sent: tuple[str, int, int] | None = None  # whose record and which, and the library's number of the message
        self._connected = threading.Event()
        self._taken: set[int] = set()
        self._news = threading.Condition()

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
        if self._sent is None or self._sent[:2] != (record.history, record.seq):
            self._sent = record.history, record.seq, self._publish(self._client, f"{self.topic}/part", record.json(self.full))
        if not self._is_taken(self._sent[2]):
            raise TimeoutError(f"the broker at {self.host}:{self.port} has not taken record {record.seq} yet")
        self._sent = None

    def close(self) -> None:
        """Keeps the session where a delivery is under way, so that the library can finish it."""
        if self._client is None or self._sent is not None:
            return
        if self._client.is_connected():
            self._is_taken(self._publish(self._client, f"{self.topic}/online", "0", retain=True))
        self._client.disconnect()
        self._client.loop_stop()
        self._client = None
        self._connected.clear()

    def _publish(self, client: paho.Client, topic: str, text: str, retain: bool = False) -> int:
        """The message's number. Without a connection the library keeps the message and sends it when there is one."""
        with self._news:
            self._taken.clear()  # numbers come round again
        info = client.publish(topic, text.encode(), self.qos, retain)
        if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN):
            raise OSError(f"the message for {topic} cannot be sent: {paho.error_string(info.rc)}")
        return info.mid

    def _is_taken(self, number: int) -> bool:
        """Whether the broker has said so, within the timeout. (A message's own `info` stays an error when it was published offline.)"""
        with self._news:
            return self._news.wait_for(lambda: number in self._taken, self.timeout)

    def _on_publish(self, client: paho.Client, userdata: object, number: int, reason: object, properties: object) -> None:
        with self._news:
            self._taken.add(number)
            self._news.notify_all()

    def _make(self) -> paho.Client:
        name = self.client_id or f"sightline-{self.topic.replace('/', '-')}"
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        client.reconnect_delay_set(min_delay=1, max_delay=5)
        client.will_set(f"{self.topic}/online", b"0", qos=1, retain=True)
        if self.user is not None:
            client.username_pw_set(self.user, self.password)
        if self.root or self.chain:
            root, chain, key = (str(path) if path else None for path in (self.root, self.chain, self.key))
            client.tls_set(root, chain, key)
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        client.on_disconnect = lambda *_: self._connected.clear()
        return client

    def _on_connect(self, client: paho.Client, userdata: object, flags: object, reason: object, properties: object) -> None:
        if not getattr(reason, "is_failure", True):
            client.publish(f"{self.topic}/online", b"1", qos=1, retain=True)
            self._connected.set()
