"""What happens at ten times the load a server can bear? For a minute requests come on time whether answers do or not.

Who is admitted must be answered within the queue's bound, everybody else refused at once; memory stays, and nothing restarts. The load is
made on the same machine, so a refusal's time holds the client's own wait for a core too.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import Measure, Target, main, percentile, write_csv
from latency import WARM_UP, spread
from memory import MB, family, resident
from sightline import Client, NotInspected, Overloaded, aio
from sightline_ensemble.contract import IN_FLIGHT_LIMIT
from sightline_training.data import Cell, cells

ALONE, AT_ONCE = 60, 8
TIMES, WARM_SECONDS, SECONDS, SAMPLE_SECONDS = 10, 20.0, 60.0, 5.0
DEADLINE = 300.0


@dataclass(frozen=True)
class Ended:
    """A request: when it was sent, how long until its end, and which end."""

    begin_s: float
    ms: float
    outcome: str  # answered, refused, or the error's name


async def ask(client: aio.Client, picture: bytes, start: float) -> Ended:
    begin, outcome = time.perf_counter(), "answered"
    try:
        await client.inspect(picture, timeout=DEADLINE)
    except Overloaded:
        outcome = "refused"
    except NotInspected as error:
        outcome = type(error).__name__
    return Ended(begin - start, 1e3 * (time.perf_counter() - begin), outcome)


async def flood(url: str, pictures: Sequence[bytes], rate: float, seconds: float, first: int = 0) -> list[Ended]:
    """`rate` requests a second for `seconds`, each sent on time, beginning with picture `first`; ends when the last one has ended."""
    async with aio.Client(url, attempts=1, max_in_flight=100_000, shared_memory=False) as client:
        start, sent = time.perf_counter(), []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            sent.append(asyncio.create_task(ask(client, pictures[(first + number) % len(pictures)], start)))
        return await asyncio.gather(*sent)


async def watched(target: Target, pictures: Sequence[bytes], rate: float) -> tuple[list[Ended], list[float]]:
    """A flood, and the whole server's resident memory in MB every few seconds of it."""
    samples: list[float] = []

    async def look() -> None:
        while target.process:
            samples.append(sum(await asyncio.to_thread(lambda: [resident(pid) for pid in family(target.process)])) / MB)
            await asyncio.sleep(SAMPLE_SECONDS)

    looking = asyncio.create_task(look())
    first = round(rate * WARM_SECONDS)  # pictures that the warm-up has shown would be answered faster, and the bound come out too low
    ended = await flood(target.url, pictures, rate, SECONDS, first)
    looking.cancel()
    return ended, samples


def unloaded(client: Client, chosen: list[Cell]) -> list[float]:
    """Milliseconds of one request after the other."""
    times = []
    for cell in chosen:
        begin = time.perf_counter()
        client.inspect(cell.path)
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def restarts(target: Target) -> int:
    with urllib.request.urlopen(f"http://{target.health}/live", timeout=5) as answer:
        return int(json.load(answer)["restarts"])


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes overload.csv (each request) and overload_memory.csv."""
    pictures = [cell.path.read_bytes() for cell in cells("test")]  # all of them: LISA remembers the pictures it has just looked at
    with Client(target.url) as client:
        unloaded(client, cells("val")[:WARM_UP])
        alone = unloaded(client, spread(cells("test"), ALONE))
    most = capacity(target.url, pictures)
    asyncio.run(flood(target.url, pictures, TIMES * most, WARM_SECONDS))  # memory has grown to what a full queue needs
    ended, samples = asyncio.run(watched(target, pictures, TIMES * most))
    write_csv(out / "overload.csv", [{"begin_s": round(e.begin_s, 3), "ms": round(e.ms, 1), "outcome": e.outcome} for e in ended])
    found = measures(alone, most, ended)
    if samples:
        write_csv(out / "overload_memory.csv", [{"second": SAMPLE_SECONDS * n, "resident_mb": round(v, 1)} for n, v in enumerate(samples)])
        growth = 100 * (max(samples) / samples[0] - 1)
        found.append(Measure("overload", "memory, largest over first", growth, "%", len(samples), "<= 5"))
        found.append(Measure("overload", "restarts of the server", restarts(target), "", 1, "<= 0"))
    return found


def capacity(url: str, pictures: Sequence[bytes]) -> float:
    """Inspections a second with a few clients that wait for their answers."""

    async def run() -> float:
        async with aio.Client(url, max_in_flight=AT_ONCE, shared_memory=False) as client:
            begin = time.perf_counter()
            await asyncio.gather(*(client.inspect(picture, timeout=DEADLINE) for picture in pictures[:48]))
            return 48 / (time.perf_counter() - begin)

    return asyncio.run(run())


def measures(alone: list[float], most: float, ended: list[Ended]) -> list[Measure]:
    answered, refused = ([e.ms for e in ended if e.outcome == kind] for kind in ("answered", "refused"))
    last = max(e.begin_s + e.ms / 1e3 for e in ended if e.outcome == "answered")
    rate = len(answered) / last
    bound = 3 * percentile(alone, 99) + 1e3 * IN_FLIGHT_LIMIT / rate
    n = len(ended)
    return [
        Measure("overload", "requests sent / what it can answer", n / SECONDS / most, "", n, ">= 9.5"),
        Measure("overload", "answered a second in it / at concurrency 8", rate / most, "", len(answered)),
        Measure(
            "overload", "p99 of the admitted / (3 x p99 alone + a full queue)", percentile(answered, 99) / bound, "", len(answered), "<= 1"
        ),
        Measure("overload", "refused, p50", percentile(refused, 50), "ms", len(refused)),
        Measure("overload", "refused, p99", percentile(refused, 99), "ms", len(refused), "<= 50"),
        Measure("overload", "refused, largest", max(refused), "ms", len(refused)),
        Measure("overload", "refused within 50 ms", 100 * sum(ms <= 50 for ms in refused) / len(refused), "%", len(refused)),
        Measure("overload", "neither answered nor refused", n - len(answered) - len(refused), "", n, "<= 0"),
    ]


if __name__ == "__main__":
    sys.exit(main({"overload": measure}))
