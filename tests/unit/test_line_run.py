"""The line against a server that is killed, restarted, slowed and refusing: nothing lost, nothing wrongly normal (bar B3)."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import sightline
from client_fake import Call, FakeTriton, Refuse, answer
from line_fake import Memory, Pictures, check_history, truth
from PIL import Image
from sightline.line import Line, Pace, Record, Store
from sightline.line.jsonl import Jsonl
from sightline.line.stats import Stats
from waiting import within

PARTS, TAKT_S = 500, 0.02


class Moody:
    """A server whose mood is changed from outside."""

    def __init__(self) -> None:
        self.mood = "well"
        self.fake: FakeTriton | None = FakeTriton(self._answer)
        self.url = self.fake.url

    def _answer(self, call: Call) -> Iterator[dict[str, object]]:
        if self.mood == "refusing":
            raise Refuse(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: queue full: 64 requests are in flight")
        if self.mood == "strict":
            raise Refuse(grpc.StatusCode.NOT_FOUND, "NOT_FOUND: PRODUCT: 'nobody' is not enrolled")
        if self.mood == "broken":
            raise Refuse(grpc.StatusCode.INTERNAL, "lisa: RuntimeError")
        time.sleep(1.0 if self.mood == "slow" else 0.003)
        yield from answer(call)

    def stop(self) -> None:
        if self.fake:
            self.fake.stop()
        self.fake = None

    def start(self) -> None:
        assert within(10, self._bound)

    def _bound(self) -> bool:
        """Somebody else may have the port for a moment."""
        try:
            self.fake = FakeTriton(self._answer, self.url)
        except RuntimeError:
            return False
        return True


@pytest.fixture
def server() -> Iterator[Moody]:
    moody = Moody()
    yield moody
    moody.stop()


def ordeal(server: Moody, source: Pictures) -> None:
    """One trouble after the other, each for some 40 parts, with the server well in between."""

    def until(part: int) -> None:
        while source.given < part:
            time.sleep(0.01)

    for number, mood in enumerate(("killed", "slow", "refusing", "broken", "killed")):
        until(30 + number * 90)
        if mood == "killed":
            server.stop()
        server.mood = mood
        until(70 + number * 90)
        if mood == "killed":
            server.start()
        server.mood = "well"


def test_500_parts_while_the_server_is_killed_slowed_and_refusing(server: Moody, tmp_path: Path) -> None:
    source, steady = Pictures(PARTS, paced=True, faults=(250,)), Memory()
    flaky = Memory(iter([*itertools.islice(itertools.cycle([True, False, False, False, False]), 60)]))
    sinks = {"steady": steady, "flaky": flaky, "file": Jsonl(tmp_path / "line.jsonl")}
    store = Store(tmp_path, "cell")
    trouble = threading.Thread(target=ordeal, args=(server, source))
    with sightline.Client(server.url, timeout=0.25) as client:
        line = Line("cell", client, source, sinks, store, Pace(TAKT_S, timeout=0.25, queue=4, workers=2, stop=5))
        trouble.start()
        stats = line.run()
    trouble.join()
    store.close()

    lines = [json.loads(text) for text in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [record.values() for record in steady.got] == lines and steady.got == flaky.got and flaky.opened > 1
    last = check_history(steady.got)
    final = {record.name: last[record.part] for record in steady.got if record.name}
    assert final == {f"part-{number}": truth(number) for number in range(1, PARTS + 1) if number != 250}
    assert sum(not record.name for record in steady.got) == stats.unseen == 1 + stats.late
    reasons = Counter(record.error["type"] for record in steady.got if record.error)
    assert {"Unreachable", "Timeout", "Overloaded", "ServerFault", "InvalidInput"} <= set(reasons)
    assert stats.taken == PARTS + stats.late and stats.spooled == 0 and stats.corrected > 100
    assert stats.normal + stats.anomaly + stats.not_inspected == stats.taken
    assert stats.not_inspected == stats.corrected + stats.unseen + sum(truth(n) == "not_inspected" for n in range(1, PARTS + 1))
    assert stats.anomaly + stats.corrected_anomaly == sum(outcome == "anomaly" for outcome in final.values())
    assert not list((tmp_path / "spool").iterdir()) and len(list((tmp_path / "rejected").iterdir())) == PARTS // 100
    print(stats.line(), dict(reasons))


def run_line(folder: Path, url: str, source: Pictures, sink: Memory, pace: Pace) -> Stats:
    store = Store(folder, "cell")
    with sightline.Client(url, timeout=pace.timeout) as client:
        line = Line("cell", client, source, {"memory": sink}, store, pace)
        stats = line.run()
    store.close()
    return stats


def test_back_pressure_waits_or_spools(server: Moody, tmp_path: Path) -> None:
    for policy in ("wait", "spool"):
        server.mood = "slow"
        source, sink = Pictures(8), Memory()
        threading.Timer(1.5, setattr, (server, "mood", "well")).start()
        run_line(tmp_path / policy, server.url, source, sink, Pace(0.01, timeout=5, queue=1, workers=1, when_full=policy))
        assert check_history(sink.got) == {number: truth(number) for number in range(1, 9)}
        refused = [record.error["message"] for record in sink.got if record.error]
        assert not refused if policy == "wait" else refused == ["queue full: 1 parts of this line are waiting"] * len(refused) != []


def test_what_is_refused_does_not_hold_up_the_end(server: Moody, tmp_path: Path) -> None:
    """A product that nobody has enrolled: the line ends, and inspects its parts when it is started after the enrolment."""
    server.mood, sink, pace = "strict", Memory(), Pace(0.001, timeout=2)
    began = time.monotonic()
    stats = run_line(tmp_path, server.url, Pictures(5), sink, pace)
    assert stats.spooled == stats.not_inspected == 5 and time.monotonic() - began < 10
    assert {record.error["type"] for record in sink.got if record.error} == {"UnknownProduct"}
    server.mood = "well"
    assert run_line(tmp_path, server.url, Pictures(0), Memory(), pace).corrected == 5


def test_what_was_left_is_found_by_the_next_start(server: Moody, tmp_path: Path) -> None:
    """Stopped with the server dead and a sink that never works: parts, records and their order are all still there."""
    server.stop()
    sink = Memory(itertools.repeat(True))
    store = Store(tmp_path, "cell")
    with sightline.Client(server.url, timeout=1) as client:
        line = Line("cell", client, Pictures(20), {"memory": sink}, store, Pace(0.001, timeout=1, queue=50, stop=0.2))
        threading.Timer(0.6, line.stop).start()
        line.run()
    taken = line.stats().taken
    store.close()
    assert taken == 20 and not sink.got
    server.start()
    later = Memory()
    run_line(tmp_path, server.url, Pictures(3), later, Pace(0.001, timeout=2))
    assert {part: word for part, word in check_history(later.got).items() if part <= 20} == {n: truth(n) for n in range(1, 21)}
    assert len({record.part for record in later.got}) == 23


def test_a_line_that_is_killed_loses_no_part(server: Moody, tmp_path: Path) -> None:
    """`sightline line` on a folder, killed with -9 in the middle, then started again and stopped with SIGTERM."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    (tmp_path / "line.toml").write_text(f"""
[line]
takt = 0.03
workers = 2
timeout = 2.0
[server]
url = "{server.url}"
[source]
kind = "folder"
path = "in"
[[sinks]]
kind = "jsonl"
path = "out/line.jsonl"
overlays = "out/overlays"
""")
    for number in range(40):
        Image.new("L", (40, 30), number).save(pictures / f"{number:02d}.png")
        if number % 2:
            with (pictures / f"{number:02d}.png").open("ab") as file:
                file.write(b"bad")
    command = [sys.executable, "-m", "sightline", "line", "--config", str(tmp_path / "line.toml"), "--json"]
    out = tmp_path / "out" / "line.jsonl"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    assert within(30, lambda: len(lines_of(out)) >= 8)
    first.kill()
    first.wait()
    seen = len(out.read_text().splitlines())
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    whole = within(60, lambda: len({line["part"] for line in verdicts(out)}) == 40)
    second.send_signal(signal.SIGTERM)
    told = json.loads(second.communicate(timeout=40)[0].splitlines()[-1])
    assert whole and second.returncode == 0 and told["spooled"] == 0 and told["faults"] == {} and 8 <= seen < 40
    records = [Record(**{key: line[key] for key in Record.__annotations__}) for line in lines_of(out)]
    check_history(records)
    assert {record.name: record.outcome for record in records} == {f"{n:02d}.png": "anomaly" if n % 2 else "normal" for n in range(40)}
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == 40


def lines_of(path: Path) -> list[dict[str, object]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def verdicts(path: Path) -> list[dict[str, object]]:
    return [line for line in lines_of(path) if line["outcome"] != "not_inspected"]
