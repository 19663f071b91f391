"""The line's memory on disk: parts, records, and how far each sink has come. It outlives the process (SQLite, write-ahead log)."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .parts import Part, Record, Result, Shot

TABLES = """
CREATE TABLE IF NOT EXISTS parts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, name TEXT NOT NULL, taken REAL NOT NULL,
    state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, picture INTEGER NOT NULL, seq INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS states ON parts (state, tries, number);
CREATE INDEX IF NOT EXISTS pictures ON parts (seq) WHERE picture;
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, part INTEGER NOT NULL, correction INTEGER NOT NULL, outcome TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS meta (history TEXT NOT NULL);
"""
WAITING, SPOOLED, DONE, REJECTED = "waiting", "spooled", "done", "rejected"


class Store:
    """A folder with `line.db`, the pictures of parts without a verdict in `spool`, and in `rejected` those that never get one."""

    def __init__(self, folder: Path, line: str) -> None:
        self._line, self._spool, self._rejected = line, folder / "spool", folder / "rejected"
        for made in (self._spool, self._rejected):
            made.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / "line.db", timeout=0.5, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # a second line on the same folder is refused, not mixed in
        self._db.executescript(TABLES)
        self._history = self._named()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction. `durable`: on the disk, with all before it, when it ends; otherwise it may be lost with the power."""
        with self._lock:
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _named(self) -> str:
        """This history's own name: numbers begin at 1 again where the folder is new, also under the line's old name."""
        with self._writing(durable=True) as db:
            db.execute("INSERT INTO meta SELECT ? WHERE NOT EXISTS (SELECT 1 FROM meta)", (uuid.uuid4().hex,))
        return str(self._rows("SELECT history FROM meta")[0][0])

    def knows(self, key: str) -> bool:
        return bool(self._rows("SELECT 1 FROM parts WHERE key = ?", key))

    def accept(self, shot: Shot | None, name: str = "") -> Part:
        """Numbers a shot and puts its picture on disk; None is a part that passed unseen."""
        taken, only = time.time(), shot is not None and shot.removed
        with self._writing(durable=only) as db:
            values = (shot.key if shot else None, shot.name if shot else name, taken, WAITING, int(shot is not None))
            number = db.execute("INSERT INTO parts (key, name, taken, state, picture) VALUES (?, ?, ?, ?, ?)", values).lastrowid
            assert number is not None
            path = self._path(number)
            if shot:
                _write(path, shot.picture, durable=only)
        return Part(number, values[1], taken, path if shot else None)

    def publish(self, results: Iterable[tuple[Part, Result]], correction: bool = False) -> None:
        """Adds the parts' records, and says what happens to each part, in one step."""
        with self._writing(durable=True) as db:
            for part, result in results:
                state = DONE if result.report else SPOOLED if result.again and part.path else REJECTED
                values = (part.number, correction, result.outcome, _body(result))
                seq = db.execute("INSERT INTO records (part, correction, outcome, body) VALUES (?, ?, ?, ?)", values).lastrowid
                db.execute("UPDATE parts SET state = ?, seq = ? WHERE number = ?", (state, seq, part.number))

    def give_up(self, part: Part) -> None:
        """The part stays not inspected, as its record says already."""
        with self._writing() as db:
            db.execute("UPDATE parts SET state = ? WHERE number = ?", (REJECTED, part.number))

    def postpone(self, part: Part) -> None:
        """Another spooled part goes first next time: this one may be what the server stumbles over."""
        with self._writing() as db:
            db.execute("UPDATE parts SET tries = tries + 1 WHERE number = ?", (part.number,))

    def unfinished(self) -> list[Part]:
        """Parts that were taken in and have no record: the process ended before."""
        return [self._part(row) for row in self._rows(f"SELECT {_PART} FROM parts WHERE state = ? ORDER BY number", WAITING)]

    def next_spooled(self) -> Part | None:
        rows = self._rows(f"SELECT {_PART} FROM parts WHERE state = ? ORDER BY tries, number LIMIT 1", SPOOLED)
        return self._part(rows[0]) if rows else None

    def spooled(self) -> int:
        return int(self._rows("SELECT count(*) FROM parts WHERE state = ?", SPOOLED)[0][0])

    def _part(self, row: tuple[Any, ...]) -> Part:
        number, name, taken, picture = row
        return Part(number, name, taken, self._path(number) if picture else None)

    def _path(self, number: int) -> Path:
        return self._spool / f"{number:09d}.bin"

    def picture(self, number: int) -> bytes | None:
        for path in (self._path(number), self._rejected / f"{number:09d}.bin"):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                continue
        return None

    def enrol_sinks(self, names: Iterable[str]) -> None:
        """A sink that is new begins with what happens from now on; one that is gone is forgotten."""
        wanted, held = set(names), {row[0] for row in self._rows("SELECT sink FROM cursors")}
        with self._writing() as db:
            last = db.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0]
            db.executemany("INSERT INTO cursors VALUES (?, ?)", [(name, last) for name in wanted - held])
            db.executemany("DELETE FROM cursors WHERE sink = ?", [(name,) for name in held - wanted])

    def pending(self, sink: str, limit: int = 100) -> list[Record]:
        """The records that this sink has not got yet, in order."""
        query = """SELECT r.seq, r.part, p.name, p.taken, r.outcome, r.correction, r.body FROM records r JOIN parts p ON p.number = r.part
            WHERE r.seq > (SELECT seq FROM cursors WHERE sink = ?) ORDER BY r.seq LIMIT ?"""
        return [self._record(*row) for row in self._rows(query, sink, limit)]

    def _record(self, seq: int, part: int, name: str, taken: float, outcome: Any, correction: int, body: str) -> Record:
        return Record(seq, self._line, part, name, taken, outcome, bool(correction), history=self._history, **json.loads(body))

    def delivered(self, sink: str, seq: int) -> None:
        with self._writing() as db:
            db.execute("UPDATE cursors SET seq = ? WHERE sink = ?", (seq, sink))

    def sweep(self) -> None:
        """Forgets what every sink has got: pictures of finished parts, and records. Pictures without a verdict stay for people."""
        cursor = "(SELECT coalesce(min(seq), 9e18) FROM cursors)"
        gone = self._rows(f"SELECT number, state FROM parts WHERE picture AND state IN (?, ?) AND seq <= {cursor}", DONE, REJECTED)
        for number, state in gone:
            if state == DONE:
                self._path(number).unlink(missing_ok=True)
            elif self._path(number).exists():
                os.replace(self._path(number), self._rejected / f"{number:09d}.bin")
        with self._writing() as db:
            db.executemany("UPDATE parts SET picture = 0 WHERE number = ?", [(number,) for number, _ in gone])
            db.execute(f"DELETE FROM records WHERE seq <= {cursor}")
            db.execute("DELETE FROM parts WHERE key IS NULL AND NOT picture AND state IN (?, ?) AND seq <= " + cursor, (DONE, REJECTED))


_PART = "number, name, taken, picture"


def _body(result: Result) -> str:
    """What a record says that needs no column of its own."""
    values = {"report": result.report, "error": result.error, "asked": result.asked, "request_id": result.request_id}
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _write(path: Path, content: bytes, durable: bool) -> None:
    """`durable`: on the disk when it returns, its name in the folder too."""
    with path.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable and hasattr(os, "O_DIRECTORY"):  # Windows has no such thing, and writes names through
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
