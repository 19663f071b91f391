"""`sightline batch` over 1,000 pictures, stopped and killed: none is lost or inspected twice; and its two summaries."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from client_fake import Call, FakeTriton, Refuse, answer, crack, report
from grpc import StatusCode
from PIL import Image
from sightline import gallery
from sightline.cli import main
from waiting import within

COUNT, CONCURRENCY = 1000, 4
EVIL = '<img src=x onerror="alert(1)">'


class Slow:
    """A healthy server that takes a moment and remembers each picture it was given. Every tenth is bad, `broken` cannot be read."""

    def __init__(self, seconds: float = 0.004) -> None:
        self.seen: list[bytes] = []
        self.seconds = seconds
        self.fake = FakeTriton(self._answer)

    def _answer(self, call: Call) -> Iterator[dict[str, object]]:
        self.seen.append(call.inputs["IMAGE"][0])
        time.sleep(self.seconds)
        yield from answer(call)


@pytest.fixture
def server() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.fake.stop()


def picture(path: Path, mark: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("L", (40, 30), 99).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue() + mark)  # behind the picture: it tells the fake server what to answer
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line.endswith("}")]


def test_a_thousand_pictures_stopped_twice_and_killed_once(server: Slow, tmp_path: Path) -> None:
    pictures = [
        picture(tmp_path / "in" / f"{number:04d}.png", b"#%04d %s" % (number, b"bad" if number % 10 == 0 else b""))
        for number in range(COUNT)
    ]
    out, page, table = tmp_path / "out.jsonl", tmp_path / "page.html", tmp_path / "table.csv"
    command = [sys.executable, "-m", "sightline", "batch", str(tmp_path / "in"), "--out", str(out), "--url", server.fake.url]
    command += ["--concurrency", str(CONCURRENCY), "--html", str(page), "--csv", str(table)]
    done: set[str] = set()
    for number, until in ((signal.SIGINT, 150), (signal.SIGINT, 450), (signal.SIGKILL, 700)):
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert within(120, lambda until=until: len(server.seen) >= until)
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
        known = {str(line["image"]) for line in lines(out)}
        assert done < known and not page.exists()
        done = known
        if number is signal.SIGINT:
            assert running.returncode == 130 and f"{len(done)} of {COUNT} pictures are done" in said
            assert len(server.seen) == len(set(server.seen)) == len(done)  # what was in flight is in the file
    in_flight = len(server.seen) - len(done)
    assert 0 <= in_flight <= CONCURRENCY
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.rstrip().rfind(b"\n") + 1 + 40])  # and the last line is only half written
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "900 normal, 100 anomalous, 0 not inspected" in ended.stderr
    assert sorted(str(line["image"]) for line in lines(out)) == sorted(map(str, pictures)) and len(out.read_text().splitlines()) == COUNT
    assert len(server.seen) <= COUNT + in_flight + 1
    assert set(Counter(server.seen).values()) <= {1, 2} and len(set(server.seen)) == COUNT
    assert page.read_text().count("<figure>") == 100 and len(table.read_text().splitlines()) == COUNT + 1


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    hanging = Slow(30.0)
    picture(tmp_path / "a.png")
    command = [sys.executable, "-m", "sightline", "batch", str(tmp_path), "--out", str(tmp_path / "o.jsonl"), "--url", hanging.fake.url]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a script's background job inherits it as ignored
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heard)
    assert within(60, lambda: hanging.seen)
    running.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    running.send_signal(signal.SIGINT)
    assert running.wait(10) == 130
    hanging.fake.stop()


def test_what_is_written_survives_every_name_and_sentence(tmp_path: Path) -> None:
    """A name that is no text, a sentence with Unicode's own line ends, a torn letter: no line is lost or inspected again."""

    def odd(call: Call) -> Iterator[dict[str, object]]:
        seen.append(call.inputs["IMAGE"][0])
        yield {"REPORT": json.dumps(report(text="No.\u2028Nothing\x85at all."))}

    seen: list[bytes] = []
    fake = FakeTriton(odd)
    picture(tmp_path / "in" / "größe\u2028.png")
    picture(Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.png")))
    out = tmp_path / "o.jsonl"
    command = ["batch", str(tmp_path / "in"), "--out", str(out), "--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "p.html")]
    for _ in range(2):
        assert main([*command, "--url", fake.url]) == 0 and len(seen) == 2
        with out.open("ab") as file:
            file.write('{"image": "grö'.encode()[:-1])
    fake.stop()


def test_json_is_each_new_line(server: Slow, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "a.png"), picture(tmp_path / "b.png", b"broken")
    command = ["batch", str(tmp_path), "--out", str(tmp_path / "o.jsonl"), "--url", server.fake.url, "--json", "--concurrency", "1"]
    assert main(command) == 2
    said = capsys.readouterr().out
    assert said == (tmp_path / "o.jsonl").read_text() and [json.loads(line).get("verdict") for line in said.splitlines()] == [
        "normal",
        None,
    ]
    assert main(command) == 2 and len(capsys.readouterr().out.splitlines()) == 1


class Page(HTMLParser):
    """What a browser sees: elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def summarised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `page.html` and `table.csv` about pictures of unkind names and sentences."""

    def unkind(call: Call) -> Iterator[dict[str, object]]:
        image = call.inputs["IMAGE"][0]
        if b"broken" in image:
            raise Refuse(StatusCode.INVALID_ARGUMENT, f"INVALID_ARGUMENT: IMAGE: {EVIL}")
        score = 0.97 if b"worse" in image else 0.61
        found = report((crack(),), score=score, text=f"=1+1 {EVIL}") if b"bad" in image else report()
        yield {"REPORT": json.dumps(found)}

    fake = FakeTriton(unkind)
    monkeypatch.chdir(tmp_path)
    marks = {"good": b"", "a": b"bad", EVIL[:-1]: b"bad worse", "javascript:alert(1)": b"bad", "broken": b"broken", "gone": b"bad"}
    for name, mark in marks.items():
        picture(Path("in") / f"{name}.png", mark)
    shown = gallery.thumbnail

    def draws(path: Path, *arguments: object) -> object:
        if path.name == "gone.png":
            path.unlink()
        return shown(path, *arguments)

    monkeypatch.setattr(gallery, "thumbnail", draws)
    command = [
        "batch",
        "in",
        "--out",
        "out.jsonl",
        "--html",
        "out/page.html",
        "--csv",
        "out/table.csv",
        "--prompt",
        EVIL,
        "--url",
        fake.url,
    ]
    assert main(command) == 2
    fake.stop()
    return tmp_path / "out"


def test_the_page_counts_shows_and_links(summarised: Path) -> None:
    page = Page((summarised / "page.html").read_text())
    assert page.open == []
    for words in ("4anomalous", "1normal", "1NOT INSPECTED", "InvalidInput: IMAGE:", "no overlay:", "score 0.08", "✗ score 0.97 top left"):
        assert words in page.text
    assert page.text.index("0.97") < page.text.index("0.61")
    images = page.all("img")
    assert len(images) == 3 and page.text.count(EVIL) >= 5  # of six, one has gone: shown as text, in sentences, the error, the question
    for image in images:
        head, _, data = str(image["src"]).partition(",")
        drawn = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == "data:image/jpeg;base64" and drawn.size == (360, 270) == (int(str(image["width"])), int(str(image["height"])))
        assert sum(1 for red, green, _ in drawn.get_flattened_data() if red > 200 and green < 130) > 300  # the defect's outline
    targets = [summarised / unquote(str(link["href"])) for link in page.all("a")]
    assert len(targets) == 6 and sorted(target.exists() for target in targets) == [False] + [True] * 5


def test_the_page_runs_and_loads_nothing(summarised: Path) -> None:
    text = (summarised / "page.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {name for name, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "default-src 'none'" in str(page.all("meta")[2]["content"])
    assert all(re.match(r"\.\./in/[^:]*$", str(link["href"])) for link in page.all("a"))
    assert "url(" not in text and "@import" not in text


def test_the_table_has_one_row_a_picture(summarised: Path) -> None:
    with (summarised / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 6 and list(rows["in/good.png"].values()) == ["in/good.png", "normal", "0.0800", "", "No, there is no anomaly.", ""]
    bad = rows["in/a.png"]
    assert (bad["verdict"], bad["score"], bad["locations"], bad["text"]) == ("anomaly", "0.6100", "top left", f"'=1+1 {EVIL}")
    assert rows["in/broken.png"]["verdict"] == "not_inspected" and EVIL in rows["in/broken.png"]["error"]
