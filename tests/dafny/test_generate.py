"""Recorded answers, replayed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.dafny import generate, programs
from steps.dafny.generate import Settings, attempts
from tests.dafny.conftest import EMBEDDED


def test_the_answers_that_come_along(tmp_path: Path) -> None:
    files = sorted((EMBEDDED / "programs").glob("*.dfy"))
    programs.main(files, programs.Settings(), Output(tmp_path / "programs.parquet"))
    out = Output(tmp_path / "attempts.jsonl")
    generate.main(tmp_path / "programs.parquet", [EMBEDDED / "answers.jsonl"], Settings(), out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    notes = [
        json.loads(line)["note"].split(":")[0]
        for line in (EMBEDDED / "answers.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 12
    assert {row["generator"] for row in rows} == {"by_hand"}
    assert Counter(notes) == {"honest": 6, "cheat": 6}
    assert all(
        json.loads(line).keys() == {"generator", "program", "attempt", "text"}
        for line in out.read_text().splitlines()
    )


def published(folder: Path, rows: dict[str, tuple[str, str, str]]) -> list[Path]:
    """A model's published answers by number: file, text, success."""
    outputs, results = folder / "m_outputs.json", folder / "m_results.csv"
    said = {
        key: {"test_ID": key, "test_file": file, "llm_output": text} for key, (file, text, _) in rows.items()
    }
    outputs.write_text(json.dumps(said))
    table = [f"{int(key) + 1:03},{file},{success}" for key, (file, _, success) in rows.items()]
    results.write_text("\n".join(["test_ID,test_file,success_on_attempt_#", *table]))
    return [outputs, results]


def test_published_answers_are_joined_by_name_not_number(tmp_path: Path) -> None:
    files = published(
        tmp_path, {"000": ("b_no_hints.dfy", "B", "2"), "001": ("a_no_hints.dfy", "A", "failed")}
    )
    found = attempts(files, {"a.dfy", "b.dfy"})
    assert [tuple(one) for one in found] == [("m", "a.dfy", "failed", "A"), ("m", "b.dfy", "2", "B")]
    assert attempts(files, {"b.dfy"}) == found[1:]


def test_answers_to_other_programs_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {f"{n:03}": (f"{name}_no_hints.dfy", "A", "1") for n, name in enumerate("abcde")}
    files = published(tmp_path, rows)
    with caplog.at_level(logging.INFO, "reprise"):
        assert len(attempts(files, {"a.dfy"})) == 1
        assert attempts(files, {"z.dfy"}) == []
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "INFO",
            "4 answers are to 4 programs that are not in the study, and left out: b.dfy, c.dfy, d.dfy and 1"
            " more",
        ),
        (
            "WARNING",
            "5 answers are to 5 programs that are not in the study, and left out: a.dfy, b.dfy, c.dfy and 2"
            " more",
        ),
    ]


def test_the_published_models(benchmark: Path) -> None:
    folders = ("model_outputs", "results_summary")
    files = [path for name in folders for path in sorted((benchmark / name).iterdir())]
    names = {row["test_file"] for row in json.loads((benchmark / "test.json").read_text("utf-8"))}
    found = attempts(files, names)
    solved = Counter(one.generator for one in found if one.attempt not in ("failed", ""))
    assert len(solved) == 5
    assert max(solved.values()) == solved["claude-3-opus"] == 263
    assert len({one.program for one in found if one.attempt not in ("failed", "")}) == 295


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: found no answer"),
        ('{"generator": "g", "program": "p"}', "line 1: found no answer"),
        ("[]", "line 1: found no answer"),
    ],
)
def test_a_line_that_is_no_answer_is_refused(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "answers.jsonl").write_text(line)
    with pytest.raises(UserError, match=says):
        attempts([tmp_path / "answers.jsonl"], {"p"})


def test_two_answers_of_one_to_one_are_refused(tmp_path: Path) -> None:
    line = json.dumps({"generator": "g", "program": "p", "text": "t"})
    (tmp_path / "answers.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(UserError, match="found two of g to p"):
        attempts([tmp_path / "answers.jsonl"], {"p"})


def test_answers_without_results_are_refused(tmp_path: Path) -> None:
    outputs, results = published(tmp_path, {"000": ("b_no_hints.dfy", "B", "2")})
    with pytest.raises(UserError, match="found no m_results.csv"):
        attempts([outputs], {"b.dfy"})
    outputs.write_text("[]")
    with pytest.raises(UserError, match="expected a model's published answers"):
        attempts([outputs, results], {"b.dfy"})
