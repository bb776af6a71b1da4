"""The programs that come along, and what Dafny said of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from steps.core.runner import Output
from steps.core.stores import read_table
from steps.dafny import generate, judge, programs, prove, score, verify
from steps.dafny.verifier.locate import Tools, Verifier
from tests.dafny.conftest import EMBEDDED

FILES = sorted((EMBEDDED / "programs").glob("*.dfy"))
RECORDED = EMBEDDED / "recorded.jsonl"


class Study:
    """Programs and what the steps make of them, in a folder."""

    def __init__(self, folder: Path, files: list[Path], verifier: Verifier, recorded: list[Path]) -> None:
        def out(name: str) -> Output:
            return Output(folder / name)

        self.folder = folder
        programs.main(files, programs.Settings(), out("programs.parquet"))
        generate.main(
            folder / "programs.parquet",
            [EMBEDDED / "answers.jsonl"],
            generate.Settings(),
            out("attempts.jsonl"),
        )
        prove.main(
            folder / "programs.parquet",
            recorded,
            0,
            1,
            verifier,
            prove.Settings(),
            out("proofs.parquet"),
            out("proofs.jsonl"),
        )
        made = folder / "programs.parquet", [folder / "proofs.parquet"]
        verify.main(
            *made,
            folder / "attempts.jsonl",
            recorded,
            0,
            1,
            verifier,
            out("verdicts.parquet"),
            out("verdicts.jsonl"),
        )
        judge.main(*made, folder / "attempts.jsonl", [folder / "verdicts.parquet"], out("judgements.parquet"))
        score.main(*made, folder / "judgements.parquet", verifier, out("metrics.json"), out("scores.json"))

    def calls(self) -> set[str]:
        names = ("proofs.jsonl", "verdicts.jsonl")
        return {line for name in names for line in (self.folder / name).read_text().splitlines()}

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def judged(self, generator: str) -> dict[str, dict[str, Any]]:
        rows = read_table(self.folder / "judgements.parquet").to_pylist()
        return {row["program"]: row for row in rows if row["generator"] == generator}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The default study as a machine without Dafny makes it."""
    folder = tmp_path_factory.mktemp("recorded")
    return Study(folder, FILES, Verifier(verdicts="recorded"), [RECORDED])


def test_what_was_recorded_is_all_that_the_default_asks_and_no_more(recorded: Study) -> None:
    assert recorded.calls() == set(RECORDED.read_text().splitlines())
    assert RECORDED.stat().st_size <= 500_000


def test_programs_verify_with_their_hints_and_many_not_without(recorded: Study) -> None:
    bare, truth = recorded.judged("bare"), recorded.judged("ground_truth")
    assert len(truth) >= 40
    assert {row["verdict"] for row in truth.values()} == {"verified"}
    needing = [name for name, row in bare.items() if row["verdict"] != "verified"]
    assert len(needing) >= 25
    kinds = re.compile(r"\b(seq<|string|set<|map<|datatype|lemma|class)\b|\bseq<|\bset<|\bmap<")
    assert sum(bool(kinds.search(bare[name]["text"])) for name in needing) >= 10


def test_the_prover_reaches_its_bar_and_misses_some(recorded: Study) -> None:
    metrics, scores = recorded.json("metrics.json"), recorded.json("scores.json")
    assert metrics["solved_share_strict"]["prover"] >= 0.75
    assert metrics["verdicts"] == "recorded"
    assert len(scores["misses"]) >= 5
    assert all(one["obligations"] for one in scores["misses"])
    # nothing that it says is refused: it only inserts
    assert all(row["strict"] == [] for row in recorded.judged("prover").values())


def test_answers_by_hand_are_told_apart(recorded: Study) -> None:
    rows = [json.loads(line) for line in (EMBEDDED / "answers.jsonl").read_text().splitlines()]
    judged = recorded.judged("by_hand")
    for row in rows:
        honest = row["note"].startswith("honest")
        assert judged[row["program"]]["verdict"] in (("verified",) if honest else ("verified", "nothing"))
        assert judged[row["program"]]["solved_strict"] == honest, row["program"]
    # the benchmark's rule lets two of the cheats pass and refuses two honest ones
    lenient = {name for name, row in judged.items() if row["solved"] != row["solved_strict"]}
    assert len(lenient) >= 4


def test_what_was_recorded_is_what_dafny_says(dafny: Tools, tmp_path: Path) -> None:
    """Of some programs: those whose names have the smallest SHA-256."""
    names = {one.name for one in programs.sampled([programs.Source(f.name, "") for f in FILES], 4)}
    verifier = Verifier(command=str(dafny.dafny), solver=str(dafny.z3), verdicts="live")
    live = Study(tmp_path, [path for path in FILES if path.name in names], verifier, [])
    assert live.calls() <= set(RECORDED.read_text().splitlines())
    assert len(live.calls()) > 10
    assert live.json("metrics.json")["verdicts"] == "live"
