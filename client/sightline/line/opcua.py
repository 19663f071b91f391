"""Records to variables of an OPC UA server, as a rule the PLC's own (extra `opcua`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.sync import Client

from .parts import Load, Record

INTEGERS = {
    ua.VariantType.SByte, ua.VariantType.Byte, ua.VariantType.Int16, ua.VariantType.UInt16, ua.VariantType.Int32,
    ua.VariantType.UInt32, ua.VariantType.Int64, ua.VariantType.UInt64,
}  # fmt: skip
NAMES = ("Part", "Outcome", "Score", "Defects", "Correction", "Name", "Text", "Seq")
POLL_S = 0.01


@dataclass
class OpcUa:
    """Writes `Part`, `Outcome` (0 not inspected, 1 normal, 2 anomaly), `Score` (-1: none), `Defects`, `Correction`, `Name` and `Text`,
    in one call, and then `Seq`: a program that waits for a new `Seq` finds the rest complete.

    Args:
        nodes: what comes before each name in the variables' node ids, for instance "ns=2;s=Sightline.".
        acknowledge: wait until the PLC has copied `Seq` to `Ack`, so that it misses no record.
    """

    url: str
    nodes: str
    acknowledge: bool = False
    user: str | None = None
    password: str | None = None
    timeout: float = 4.0

    def __post_init__(self) -> None:
        self._client: Client | None = None

    def open(self) -> None:
        client = Client(self.url, timeout=self.timeout)
        if self.user is not None:
            client.set_user(self.user)
            client.set_password(self.password or "")
        try:
            client.connect()
            self._nodes = {name: client.get_node(self.nodes + name) for name in (*NAMES, *(("Ack",) if self.acknowledge else ()))}
            self._types = {name: node.read_data_type_as_variant_type() for name, node in self._nodes.items()}
        except BaseException:
            client.disconnect()  # it has a thread of its own, and a server has few sessions to give
            raise
        self._client = client

    def deliver(self, record: Record, picture: Load) -> None:
        assert self._client is not None
        report = record.report or {}
        values: dict[str, Any] = {
            "Part": record.part, "Outcome": record.code, "Score": -1.0 if record.score is None else record.score,
            "Defects": len(report.get("defects", ())), "Correction": record.correction, "Name": record.name,
            "Text": report.get("text") or (record.error or {}).get("message", ""),
        }  # fmt: skip
        nodes = [self._nodes[name] for name in values]
        self._client.write_values(nodes, [self._variant(name, value) for name, value in values.items()])
        self._nodes["Seq"].write_value(self._variant("Seq", record.seq))
        if self.acknowledge:
            self._await_ack(record.seq)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()

    def _variant(self, name: str, value: Any) -> ua.DataValue:
        kind = self._types[name]
        wanted = int(value) if kind in INTEGERS else bool(value) if kind == ua.VariantType.Boolean else value
        return ua.DataValue(ua.Variant(wanted, kind))

    def _await_ack(self, seq: int) -> None:
        end = time.monotonic() + self.timeout
        while self._nodes["Ack"].read_value() != seq:
            if time.monotonic() > end:
                raise TimeoutError(f"the PLC at {self.url} has not acknowledged record {seq}")
            time.sleep(POLL_S)
