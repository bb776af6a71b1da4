"""The warm server, with a stand-in that misbehaves, and calls that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.core.errors import UserError
from steps.dafny.verifier import pool
from steps.dafny.verifier.locate import Tools, Verifier
from steps.dafny.verifier.pool import Dafny, Server
from steps.dafny.verifier.results import Calls
from tests.dafny.test_process import calls, group_is_gone


def test_one_server_answers_many_questions(stand_in: Tools, tmp_path: Path) -> None:
    with Server(stand_in, Verifier()) as server:
        assert server.ask("method A").state == "proved"
        answer = server.ask("method A\n\nFAIL")
        assert answer.state == "failed"
        assert [(one.line, one.message) for one in answer.diagnostics] == [
            (2, "invariant could not be proved")
        ]
        assert server.ask("method A\nUNRESOLVED").state == "unresolved"
        assert server.ask("// nothing").state == "proved"
    [(pid, words)] = calls(tmp_path)
    assert words[0] == "server"
    assert group_is_gone(pid)


@pytest.mark.parametrize("what", ["crash", "half", "mute", "hang", "flood"])
def test_one_that_is_lost_is_replaced(
    stand_in: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(pool, "MOST_BYTES", 1_000_000)
    with Server(stand_in, Verifier(seconds=1)) as server:
        assert server.ask(f"method A // MISBEHAVE {what} ").state == "lost"
        assert server.ask("method A").state == "proved"
    assert len(calls(tmp_path)) == 3  # it was tried twice
    assert all(group_is_gone(pid) for pid, _ in calls(tmp_path))


def test_one_that_stops_reading_is_replaced(stand_in: Tools, tmp_path: Path) -> None:
    """A text is longer than what a pipe holds."""
    with Server(stand_in, Verifier(seconds=1)) as server:
        assert server.ask("// MISBEHAVE deaf\n" + "// more\n" * 25_000).state == "lost"
        assert server.ask("method A").state == "proved"
    assert all(group_is_gone(pid) for pid, _ in calls(tmp_path))


def test_a_server_is_replaced_after_many_documents(
    stand_in: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "AT_MOST", 2)
    with Server(stand_in, Verifier()) as server:
        assert {server.ask(f"method A{number}").state for number in range(5)} == {"proved"}
    assert len(calls(tmp_path)) == 3


def test_equal_questions_are_asked_once(stand_in: Tools, tmp_path: Path) -> None:
    found = Verifier(command=str(stand_in.dafny), solver=str(stand_in.z3))
    with Dafny(found, tmp_path / "kept") as dafny:
        assert dafny.verdicts == "live"
        assert {dafny.verify("method A").verdict for _ in range(3)} == {"verified"}
        assert dafny.search("method A\nFAIL").state == dafny.search("method A\nFAIL").state == "failed"
        dafny.write_calls(tmp_path / "out")
    asked = [words[0] for _, words in calls(tmp_path)]
    assert sorted(asked) == ["--version", "server", "verify"]
    assert not (tmp_path / "kept").exists()
    assert len((tmp_path / "out").read_text().splitlines()) == 2


def test_a_killed_job_asks_nothing_twice(stand_in: Tools, tmp_path: Path) -> None:
    """What it was answered lies beside its output; a last line that was cut is passed over."""
    found = Verifier(command=str(stand_in.dafny), solver=str(stand_in.z3))
    with Dafny(found, tmp_path / "kept") as dafny:
        first = dafny.verify("method A\nFAIL")
    with (tmp_path / "kept").open("a") as file:
        file.write('["torn", "verify", {"verd')
    with Dafny(found, tmp_path / "kept") as dafny:
        assert dafny.verify("method A\nFAIL") == first
        dafny.write_calls(tmp_path / "out")
    assert [words[0] for _, words in calls(tmp_path)].count("verify") == 1
    assert "torn" not in (tmp_path / "out").read_text()


def test_what_the_clock_decided_is_not_kept(stand_in: Tools, tmp_path: Path) -> None:
    found = Verifier(command=str(stand_in.dafny), solver=str(stand_in.z3), seconds=0.3)
    with Dafny(found, tmp_path / "kept") as dafny:
        assert dafny.verify("method A // MISBEHAVE hang ").verdict == "timeout"
    assert not (tmp_path / "kept").exists()


def test_recorded_calls_answer_where_there_is_no_dafny(
    stand_in: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Verifier(command=str(stand_in.dafny), solver=str(stand_in.z3))
    with Dafny(found, tmp_path / "kept") as dafny:
        live = dafny.verify("method A"), dafny.search("method B\nFAIL")
        dafny.write_calls(tmp_path / "recorded")
    monkeypatch.setattr(pool, "find", lambda verifier: None)
    with Dafny(Verifier(), tmp_path / "kept", tmp_path / "recorded") as dafny:
        assert dafny.verdicts == "recorded"
        assert (dafny.verify("method A"), dafny.search("method B\nFAIL")) == live
        for ask in (dafny.verify, dafny.search):
            with pytest.raises(UserError, match="recorded verdicts: found none"):
                ask("method C")
        dafny.write_calls(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "recorded").read_bytes()
    with (
        Dafny(Verifier(resource_limit=9999), tmp_path / "kept", tmp_path / "recorded") as dafny,
        pytest.raises(UserError),
    ):
        dafny.verify("method A")  # decided within other limits


def test_without_dafny_and_record_one_line_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "find", lambda verifier: None)
    with pytest.raises(UserError, match="no Dafny found; .*make dafny"):
        Dafny(Verifier(), tmp_path / "kept")
    with pytest.raises(UserError, match="verifier.verdicts: found recorded, expected auto or live"):
        Dafny(Verifier(verdicts="recorded"), tmp_path / "kept")
    (tmp_path / "recorded").write_text("")
    with pytest.raises(UserError, match="no Dafny found"):
        Dafny(Verifier(verdicts="live"), tmp_path / "kept", tmp_path / "recorded")


def test_calls_are_written_in_one_order(tmp_path: Path) -> None:
    made = []
    for name, texts in (("a", "xyz"), ("b", "zyx")):
        found = Calls(tmp_path / f"kept {name}")
        for text in texts:
            answer = found.answer("verify", text, {"z3": "1"}, lambda: {"of": 1}, lambda answer: True)
            assert answer == {"of": 1}
        found.write(tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert len({json.loads(line)[0] for line in made[0].splitlines()}) == 3
