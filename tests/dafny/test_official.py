"""The benchmark's own rule, holes included."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from steps.dafny.generators.replay import of_benchmark
from steps.dafny.judges.official import contract_lines, refusals

DIFFER = "lines with requires or ensures differ"
GIVEN = """method M(x: int) returns (y: int)
  requires x > 0
  ensures y > x
{
  y := x + 1;
}
"""


def test_lines_of_contracts_are_compared_without_blanks() -> None:
    assert contract_lines(GIVEN) == ["requiresx>0", "ensuresy>x"]
    assert refusals(GIVEN, GIVEN.replace("y > x", "y>x")) == []
    assert refusals(GIVEN, GIVEN.replace("y > x", "y >= x")) == [DIFFER]
    assert refusals(GIVEN, GIVEN.replace("  requires x > 0\n", "")) == [
        "lines with requires or ensures differ"
    ]


def test_comments_are_left_out_as_the_benchmark_does() -> None:
    assert contract_lines("// ensures a\n/* ensures b\nensures c */\nensures d\n/* e */ ensures f") == [
        "ensuresd"
    ]


@pytest.mark.parametrize("text", ["assume false", "{:verify false}"])
def test_two_texts_are_refused_wherever_they_stand(text: str) -> None:
    assert refusals(GIVEN, f"{GIVEN}// {text}\n") == [f"it holds the text {text}"]


@pytest.mark.parametrize(
    "line",
    ["assume {:axiom} false;", "assume(false);", "expect false;", "y := x + 2;", "return x + 1;"],
)
def test_holes_stay_open(line: str) -> None:
    assert refusals(GIVEN, GIVEN.replace("  y := x + 1;\n", f"  {line}\n")) == []


def test_a_helper_lemma_is_refused() -> None:
    assert refusals(GIVEN, f"{GIVEN}lemma L()\n  ensures true\n{{ }}\n")


def test_recorded_successes_of_the_published_models_pass(benchmark: Path) -> None:
    """Those from attempt 1 on: at attempt 0 programs that verify bare were credited, whatever the answer."""
    given = {
        row["test_file"]: row["hints_removed"]
        for row in json.loads((benchmark / "test.json").read_text("utf-8"))
    }
    counted = 0
    for outputs in sorted((benchmark / "model_outputs").glob("*_outputs.json")):
        name = outputs.name.removesuffix("_outputs.json")
        results = benchmark / "results_summary" / f"{name}_results.csv"
        with results.open(encoding="utf-8", newline="") as file:
            rows = {
                row["test_file"].replace("_no_hints", ""): row["success_on_attempt_#"]
                for row in csv.DictReader(file)
            }
        for attempt in of_benchmark(outputs, results):
            assert attempt.attempt == rows.get(attempt.program, "")
            if attempt.attempt not in ("0", "failed", ""):
                counted += 1
                assert refusals(given[attempt.program], attempt.text) == [], (name, attempt.program)
    assert counted > 400
