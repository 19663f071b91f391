"""The audit's file: a line for each verdict, nothing of its content, and whoever renames the file loses none."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from sightline_ensemble import audit

CONTENT = {"verdict": "normal", "score": 0.1, "profile": "tiny", "artefacts": {"lisa": "sha256:1"}, "prompt": "secret?", "text": "secret"}
REPORT = json.dumps(CONTENT).encode()


def test_a_renamed_file_is_complete_and_the_next_line_begins_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "audit.jsonl"
    monkeypatch.setenv(audit.AUDIT_VARIABLE, str(file))
    for name in ("part-1", "part-2"):
        audit.note(name, REPORT)
    file.rename(tmp_path / "yesterday.jsonl")
    audit.note("part-3", REPORT)
    kept, new = ([json.loads(line) for line in path.read_text().splitlines()] for path in (tmp_path / "yesterday.jsonl", file))
    assert [line["request"] for line in kept] == ["part-1", "part-2"] and [line["request"] for line in new] == ["part-3"]
    assert set(new[0]) == {"time", "request", "verdict", "score", "profile", "artefacts", "prompt"}
    assert "secret" not in file.read_text() and len(new[0]["prompt"]) == len("sha256:") + 64
    assert file.stat().st_mode & 0o007 == 0


def test_where_no_line_can_be_written_the_verdict_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(audit.AUDIT_VARIABLE, str(tmp_path / "gone" / "audit.jsonl"))
    with pytest.raises(OSError):
        audit.note("part-1", REPORT)
    monkeypatch.delenv(audit.AUDIT_VARIABLE)
    audit.note("part-1", REPORT)


def test_a_line_that_finds_room_for_a_part_only_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the process's files does what a full volume does: the first write comes out short, without an error."""
    file = tmp_path / "audit.jsonl"
    monkeypatch.setenv(audit.AUDIT_VARIABLE, str(file))
    audit.note("part-1", REPORT)
    whole, usual = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, usual[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            audit.note("part-2", REPORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert file.read_bytes() == whole
    audit.note("part-3", REPORT)
    assert [json.loads(line)["request"] for line in file.read_text().splitlines()] == ["part-1", "part-3"]
