"""Recorded answers: those that come with this chapter, and the benchmark's published ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from steps.core.errors import UserError

OUTPUTS, RESULTS = "_outputs.json", "_results.csv"
"""How the benchmark's files end: what a model answered last, and on which attempt it succeeded."""

FOLDERS = {OUTPUTS: ("reconstructed_files", "model_outputs"), RESULTS: ("results_summary",)}
"""Where they lie in the benchmark's ``results``, or in a folder of that kind."""


class Attempt(NamedTuple):
    """An answer to a program."""

    generator: str
    program: str
    attempt: str
    """The attempt that succeeded (0: credited unseen), ``failed``, or nothing if that is unknown."""
    text: str


def of_lines(path: Path) -> list[Attempt]:
    """Answers as JSON lines with ``generator``, ``program`` and ``text``.

    Raises:
        UserError: a line is none.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(Attempt(row["generator"], row["program"], "", row["text"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: found no answer ({type(error).__name__}), expected JSON with"
                " generator, program and text; correct it"
            ) from None
    return found


def of_benchmark(outputs: Path, results: Path) -> list[Attempt]:
    """A model's published answers, joined with its results by ``test_file``.

    The published numbers of programs differ between files: 102 of them name other programs here and there.

    Raises:
        UserError: a file is not of the benchmark's kind.
    """
    try:
        said: dict[str, Any] = json.loads(outputs.read_text(encoding="utf-8"))
        with results.open(encoding="utf-8", newline="") as file:
            table = {row["test_file"]: row["success_on_attempt_#"] for row in csv.DictReader(file)}
        generator = outputs.name.removesuffix(OUTPUTS)
        return [
            Attempt(generator, _program(row["test_file"]), table.get(row["test_file"], ""), row["llm_output"])
            for row in said.values()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{outputs}: found {type(error).__name__} ({error}), expected a model's published answers, with"
            f" {results.name}; name the benchmark's folders"
        ) from None


def _program(test_file: str) -> str:
    return test_file.removesuffix("_no_hints.dfy") + (".dfy" if test_file.endswith("_no_hints.dfy") else "")
