"""Prove, verify, judge, score, page, report and record, in turn, on planted programs and with a stand-in."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import read_table, write_table
from steps.dafny import judge, page, prove, record, report, score, verify
from steps.dafny.verifier.locate import Verifier
from steps.dafny.verifier.results import text_digest
from steps.report.page import Report
from tests.dafny.conftest import stand_in_at

# The stand-in proves what holds no FAIL and no UNRESOLVED.
PROGRAMS = {
    "bare.dfy": ("method Bare() { }\n", "method Bare() { assert true; }\n"),
    "hard <script>.dfy": ("method Hard()\n{\n  FAIL();\n}\n", "method Hard()\n{\n  Fine();\n}\n"),
    "odd\u202e.dfy": ("method Odd()\n{\n}\n", "method Odd()\n{\n  assert 1 < 2;\n}\n"),
}
ATTEMPTS = [
    ("model", "bare.dfy", "1", "method Bare() { assert 1 == 1; }\n"),
    ("model", "hard <script>.dfy", "failed", "method Hard()\n{\n  assume false; // WARN </script>\n}\n"),
    ("other", "hard <script>.dfy", "2", "method Hard()\n{\n  FAIL();\n  assert 1 < 2; // FAIL\n}\n"),
    ("other", "odd\u202e.dfy", "", "method Odd()\n{\n  UNRESOLVED\n}\n"),
]


class Study:
    """A study in a folder, made by calling the steps."""

    def __init__(self, folder: Path, verifier: Verifier, batches: int = 2) -> None:
        self.folder, self.verifier, self.batches = folder, verifier, batches
        folder.mkdir()
        rows = [
            {
                "program": name,
                "ground_truth": truth,
                "given": given,
                "stripped": "syntax",
                "as_lines": True,
                "sha256": "0",
                "source_sha256": "",
            }
            for name, (given, truth) in PROGRAMS.items()
        ]
        write_table(pd.DataFrame(rows), self["programs.parquet"])
        names = ("generator", "program", "attempt", "text")
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in ATTEMPTS]
        self["attempts.jsonl"].write_text("".join(f"{line}\n" for line in lines))

    def __getitem__(self, name: str) -> Output:
        return Output(self.folder / name)

    def all(self, name: str) -> list[Path]:
        return [self[f"{batch}.{name}"] for batch in range(self.batches)]

    def run(self) -> None:
        for batch, out in enumerate(self.all("proofs.parquet")):
            calls = self[f"{batch}.proofs.jsonl"]
            prove.main(
                self["programs.parquet"],
                [],
                batch,
                self.batches,
                self.verifier,
                prove.Settings(),
                Output(out),
                calls,
            )
        for batch, out in enumerate(self.all("verdicts.parquet")):
            calls = self[f"{batch}.verdicts.jsonl"]
            verify.main(
                self["programs.parquet"],
                self.all("proofs.parquet"),
                self["attempts.jsonl"],
                [],
                batch,
                self.batches,
                self.verifier,
                Output(out),
                calls,
            )
        self.judge()
        score.main(
            self["programs.parquet"],
            self.all("proofs.parquet"),
            self["judgements.parquet"],
            self.verifier,
            self["metrics.json"],
            self["scores.json"],
        )
        page.main(
            "planted",
            self["programs.parquet"],
            self.all("proofs.parquet"),
            self["judgements.parquet"],
            self["scores.json"],
            page.Settings(),
            self["programs.html"],
        )
        (self.folder / "figures").mkdir()
        report.main(
            "planted",
            "{}",
            self["programs.parquet"],
            self.all("proofs.parquet"),
            self.all("verdicts.parquet"),
            self["attempts.jsonl"],
            self["judgements.parquet"],
            self["metrics.json"],
            self["scores.json"],
            self["programs.html"],
            self["report.json"],
            self["figures/solved.svg"],
            self["figures/solved.json"],
        )

    def judge(self) -> None:
        judge.main(
            self["programs.parquet"],
            self.all("proofs.parquet"),
            self["attempts.jsonl"],
            self.all("verdicts.parquet"),
            self["judgements.parquet"],
        )

    def judged(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = read_table(self["judgements.parquet"]).to_pylist()
        return {(row["generator"], row["program"]): row for row in rows}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that is only read."""
    folder = tmp_path_factory.mktemp("planted")
    tools = stand_in_at(folder)
    made = Study(folder / "study", Verifier(command=str(tools.dafny), solver=str(tools.z3)))
    made.run()
    return made


def test_every_text_is_verified_once(study: Study) -> None:
    rows = [row for path in study.all("verdicts.parquet") for row in read_table(path).to_pylist()]
    texts = {text for pair in PROGRAMS.values() for text in pair} | {row[3] for row in ATTEMPTS}
    assert len(rows) == len({row["sha256"] for row in rows}) == len(texts)
    asked = [json.loads(line)[1][0] for line in (study.folder.parent / "calls").read_text().splitlines()]
    assert asked.count("verify") == len(texts)
    by_text = {row["sha256"]: row for row in rows}
    failed = by_text[text_digest(PROGRAMS["hard <script>.dfy"][0])]
    assert (failed["verdict"], failed["failures"]) == ("failed", ["assertion might not hold: FAIL();"])
    assert {row["verdicts"] for row in rows} == {"live"}


def test_judgements(study: Study) -> None:
    rows = study.judged()
    assert len(rows) == 3 * len(PROGRAMS) + len(ATTEMPTS)
    assert rows["bare", "bare.dfy"]["solved_strict"]
    assert rows["ground_truth", "odd\u202e.dfy"]["solved_strict"]
    assert rows["prover", "bare.dfy"]["solved_strict"]
    assert rows["prover", "hard <script>.dfy"]["verdict"] == "failed"
    assert rows["model", "bare.dfy"]["solved"]
    cheat = rows["model", "hard <script>.dfy"]
    assert (cheat["verdict"], cheat["solved"], cheat["solved_strict"]) == ("verified", False, False)
    assert cheat["official"] == ["it holds the text assume false"]
    assert "Dafny warns: assume statement has no {:axiom} annotation" in cheat["strict"]
    assert rows["other", "odd\u202e.dfy"]["verdict"] == "resolve"


def test_the_program_s_own_warnings_are_known_where_it_ran_out_of_time(study: Study, tmp_path: Path) -> None:
    """A run that the clock ended warns of nothing; the program with its hints says what is its own."""
    warning, name = "assume statement has no {:axiom} annotation", "bare.dfy"
    digests = [text_digest(text) for text in (*PROGRAMS[name], ATTEMPTS[0][3])]
    tables = {path: read_table(path).to_pandas() for path in study.all("verdicts.parquet")}
    for number, path in enumerate(tables):
        rows = tables[path].to_dict("records")
        for row in rows:
            if row["sha256"] == digests[0]:
                row |= {"verdict": "timeout", "warnings": []}
            elif row["sha256"] in digests:
                row["warnings"] = [warning]
        write_table(pd.DataFrame(rows), Output(tmp_path / f"{number}.parquet"))
    judge.main(
        study["programs.parquet"],
        study.all("proofs.parquet"),
        study["attempts.jsonl"],
        [tmp_path / f"{number}.parquet" for number in range(len(tables))],
        Output(tmp_path / "judgements.parquet"),
    )
    rows = read_table(tmp_path / "judgements.parquet").to_pylist()
    strict = {(row["generator"], row["program"]): row["strict"] for row in rows}
    assert strict["ground_truth", name] == strict["model", name] == []
    assert strict["model", "hard <script>.dfy"] != []


def test_metrics_and_scores(study: Study) -> None:
    metrics = json.loads(study["metrics.json"].read_text())
    assert metrics == {
        "programs": 3,
        "needing_hints": 1,
        "test_json_sha256": None,
        "bare_share": 2 / 3,
        "ground_truth_share": 1.0,
        "solved_share": {"prover": 2 / 3, "model": 1 / 3, "other": 0.0, "models_together": 1 / 3},
        "solved_share_strict": {"prover": 2 / 3, "model": 1 / 3, "other": 0.0, "models_together": 1 / 3},
        "verifier": "4.11.0",
        "z3": "4.12.1",
        "verdicts": "live",
    }
    scores = json.loads(study["scores.json"].read_text())
    prover = scores["generators"]["prover"]["solved_strict"]
    assert prover["standard_error"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 3))
    assert scores["generators"]["model"]["refused"] == 1
    assert scores["generators"]["model"]["solved_strict"]["by_attempt"] == {"1": 1}
    [miss] = scores["misses"]
    assert miss == {
        "program": "hard <script>.dfy",
        "stage": "bare",
        "obligations": ["assertion might not hold: FAIL();"],
    }
    assert "It misses 1: hard <script>.dfy (assertion might not hold: FAIL();)." in scores["findings"]
    assert scores["versions"]["dafny"] == "4.11.0"


def test_the_page_escapes_everything_and_shows_misses_first(study: Study) -> None:
    text = study["programs.html"].read_text()
    assert "<script" not in text
    assert "hard &lt;script&gt;.dfy" in text
    assert "\u202e" not in text
    assert "U+202E" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    order = re.findall(r"<h3>([^<]*)</h3>", text)
    assert order[0].startswith("hard")
    assert '<span class="add">  assert 1 &lt; 2;' in text
    assert '<span class="cut">  FAIL();' in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_report_keeps_its_contract(study: Study) -> None:
    made = json.loads(study["report.json"].read_text())
    Report.model_validate(made)
    assert made["cards"][0]["value"] == 66.7
    assert made["provenance"]["versions"]["dafny"] == "4.11.0"
    assert made["provenance"]["versions"]["z3"] == "4.12.1"
    assert made["summary"].startswith("Of 3 programs 2 verify without hints and 3 with their own.")
    assert {table["title"] for table in made["tables"]} == {
        "What solves how many programs",
        "What the prover misses",
    }
    data = json.loads(study["figures/solved.json"].read_text())
    assert [row["generator"] for row in data][:3] == ["without hints", "own hints", "prover"]
    assert study["figures/solved.svg"].read_text().startswith("<?xml")


def test_another_cut_gives_the_same_verdicts(study: Study, tmp_path: Path) -> None:
    other = Study(tmp_path / "other", study.verifier, batches=3)
    other.run()
    for name in ("judgements.parquet", "metrics.json", "scores.json", "programs.html"):
        assert other[name].read_bytes() == study[name].read_bytes(), name


def test_calls_are_merged_and_sorted(study: Study, tmp_path: Path) -> None:
    out = Output(tmp_path / "recorded.jsonl")
    calls = [*study.all("proofs.jsonl"), *study.all("verdicts.jsonl")]
    record.main(calls, out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    keys = [row[0] for row in rows]
    assert keys == sorted(set(keys))
    assert {row[1] for row in rows} == {"search", "verify"}
    record.main([*calls[::-1], *calls], Output(tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()


def test_recorded_verdicts_are_said_to_be(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.main(
        [*study.all("proofs.jsonl"), *study.all("verdicts.jsonl")], Output(tmp_path / "recorded.jsonl")
    )
    verifier = study.verifier.model_copy(update={"verdicts": "recorded"})
    out, calls = study["again.parquet"], study["again.jsonl"]
    recorded = [tmp_path / "recorded.jsonl"]
    prove.main(study["programs.parquet"], recorded, 0, 1, verifier, prove.Settings(), out, calls)
    live = [row for path in study.all("proofs.parquet") for row in read_table(path).to_pylist()]
    again = read_table(out).to_pylist()
    assert {row.pop("verdicts") for row in again} == {"recorded"}
    assert {row.pop("verdicts") for row in live} == {"live"}
    assert sorted(again, key=str) == sorted(live, key=str)


def test_a_missing_batch_is_noticed(study: Study) -> None:
    for name in ("verdicts.parquet", "proofs.parquet"):
        path = study.all(name)[0]
        kept = path.read_bytes()
        write_table(read_table(path).to_pandas().iloc[:0], path)
        with pytest.raises(UserError, match="name those of all batches"):
            study.judge()
        path.write_bytes(kept)


def test_long_texts_are_shown_around_their_changes() -> None:
    before = "\n".join(f"line {number}" for number in range(300))
    shown = page.difference(before, before.replace("line 150", "line 150\nassert true;"))
    assert ("add", "assert true;") in shown
    assert len(shown) < 12
    assert shown[0] == ("skip", "… 148 lines as given")
