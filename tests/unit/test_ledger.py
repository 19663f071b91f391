"""The ledger: admission, refusal, release, cancellation, deadlines, lost requests; errors keep their code."""

import threading
import time

import pytest
from sightline_ensemble import errors, ledger
from sightline_ensemble.errors import RequestError
from sightline_ensemble.ledger import Ledger


def test_full_then_free(tmp_path):
    one, other = Ledger(tmp_path / "l", 4), Ledger(tmp_path / "l", 4)
    tickets = [one.admit() for _ in range(4)]
    with pytest.raises(RequestError, match="UNAVAILABLE: queue full"):
        other.admit()
    other.release(tickets[0])
    again = one.admit()
    one.release(tickets[0])  # an old ticket frees nobody else's row
    assert again not in tickets and other.in_flight() == 4


def test_states(tmp_path):
    book = Ledger(tmp_path / "l", 2)
    ticket = book.admit(time.monotonic_ns() + 10**9)
    assert book.state(ticket) == "live"
    book.cancel(ticket)
    assert book.state(ticket) == "cancelled"
    assert book.state((-1, 0)) == "live" and book.state((-1, 1)) == "expired"
    with pytest.raises(RequestError, match="UNAVAILABLE: timeout"):
        book.check((-1, 1))


def test_lost_requests_expire(tmp_path, monkeypatch):
    book = Ledger(tmp_path / "l", 1)
    book.admit(time.monotonic_ns() - ledger.GRACE_NS - 1)
    book.admit()
    monkeypatch.setattr(ledger, "LOST_AFTER_NS", -1)
    book.admit()


def test_who_is_still_at_work_is_not_lost(tmp_path, monkeypatch):
    book = Ledger(tmp_path / "l", 1)
    ticket = book.admit()
    monkeypatch.setattr(ledger, "LOST_AFTER_NS", 20_000_000)
    time.sleep(0.03)
    assert not book.in_flight()
    book.touch(ticket)
    assert book.in_flight()
    book.release(ticket)
    book.touch(ticket)
    assert not book.in_flight()


def test_threads_never_share_a_row(tmp_path):
    book, taken = Ledger(tmp_path / "l", 64), []
    threads = [threading.Thread(target=lambda: taken.extend(book.admit() for _ in range(8))) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len({token % 64 for token, _ in taken}) == 64


def test_codes_come_back():
    error = errors.invalid("BOX", "empty,\n expected\x00 more")
    assert str(error) == "INVALID_ARGUMENT: BOX: empty, expected more"
    assert errors.code_of(f"in ensemble 'inspect', in ensemble 'prepare', {error}") == "INVALID_ARGUMENT"
    assert errors.code_of("in ensemble 'x', Exceeds maximum queue size") == "UNAVAILABLE"
    assert errors.code_of("Stub process 'report_0_0' is not healthy.") == "INTERNAL"
    assert errors.code_of("expected NOT_FOUND: inside the text") == "INTERNAL"
    assert str(errors.from_message("Failed at /some/path", "lisa")) == "INTERNAL: lisa: failed"
