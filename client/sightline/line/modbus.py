"""Records to holding registers of a Modbus TCP device (extra `modbus`)."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any

from pymodbus.client import ModbusTcpClient

from .parts import Load, Record

POLL_S = 0.01
NO_SCORE = 0xFFFF
BOX_END = 0xFFFF


@dataclass
class Modbus:
    """Writes a block of 12 registers from `register` on, in one request, so that the device never sees half a record:

    0, 1 seq; 2, 3 part (32 bit, high word first); 4 outcome (0 not inspected, 1 normal, 2 anomaly); 5 score times 10,000
    (65535: none); 6 correction (0, 1); 7 number of defects; 8 to 11 box of the strongest defect, x0, y0, x1, y1 in pixels.

    `acknowledge`: a register into which the device copies register 1 when it has read the block; the sink waits for it, so that
    the device misses no record.
    """

    host: str
    port: int = 502
    register: int = 0
    device: int = 1
    acknowledge: int | None = None
    timeout: float = 3.0

    def __post_init__(self) -> None:
        self._client: Any = None  # some of its methods have no types

    def open(self) -> None:
        client: Any = ModbusTcpClient(self.host, port=self.port, timeout=self.timeout, retries=0)
        if not client.connect():
            client.close()
            raise ConnectionError(f"no Modbus device at {self.host}:{self.port}")
        self._client = client

    def deliver(self, record: Record, picture: Load) -> None:
        answer = self._client.write_registers(self.register, registers(record), device_id=self.device)
        if answer.isError():
            raise OSError(f"the device at {self.host}:{self.port} refused record {record.seq}: {answer}")
        if self.acknowledge is not None:
            self._await_ack(self._client, self.acknowledge, record.seq & 0xFFFF)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _await_ack(self, client: Any, register: int, wanted: int) -> None:
        end = time.monotonic() + self.timeout
        while True:
            answer = client.read_holding_registers(register, count=1, device_id=self.device)
            if answer.isError():
                raise OSError(f"the device at {self.host}:{self.port} does not tell register {register}: {answer}")
            if answer.registers[0] == wanted:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"the device at {self.host}:{self.port} has not acknowledged a record ({wanted})")
            time.sleep(POLL_S)


def registers(record: Record) -> list[int]:
    """The block of a record."""
    defects = (record.report or {}).get("defects", [])
    strongest = max(defects, key=lambda defect: float(defect["score"]), default=None)
    box = [min(BOX_END, max(0, round(value))) for value in strongest["box"]] if strongest else [0] * 4
    score = NO_SCORE if record.score is None else round(record.score * 10_000)
    numbers = struct.unpack(">4H", struct.pack(">2I", record.seq & 0xFFFFFFFF, record.part & 0xFFFFFFFF))
    return [*numbers, record.code, score, int(record.correction), len(defects), *box]
