"""One self-contained page of all programs: verdicts, and what each answer put in and took out.

Reads the programs, the proofs and the judgements, and the findings of the scores. Writes one HTML file
without script; a Content-Security-Policy allows its own style by its hash and nothing else. Every text is
escaped, unseen characters are shown by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from steps.core.pages import render
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import read_json, read_table
from steps.core.text import plural, visible

NAMES = {"bare": "without hints", "ground_truth": "its own hints", "prover": "prover"}
"""What generators are called here."""

GIVEN = ("bare", "ground_truth")
"""What is no answer: of these the verdict alone counts."""

AROUND = 3
"""Lines that are shown around a change in a long text."""

LONG = 80
"""Lines of a text that is not shown whole."""


class Settings(BaseSettings):
    """What the page holds."""

    programs: int = Field(
        400, ge=1, description="programs on the page at most, those that the prover misses first"
    )


def readable(line: str) -> str:
    """A line of a program with its unseen characters made visible; tabs become spaces."""
    return "".join(
        character if character == " " else visible(character) for character in line.replace("\t", "  ")
    )


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """The lines of a text with those that were put in (``add``) and taken out (``cut``), marked."""
    rows: list[tuple[str, str]] = []
    a, b = (text.removesuffix("\n").split("\n") for text in (before, after))
    matcher = difflib.SequenceMatcher(None, [x.strip() for x in a], [x.strip() for x in b], autojunk=False)
    for kind, i, k, j, m in matcher.get_opcodes():
        if kind == "equal":
            rows += [("same", readable(line)) for line in b[j:m]]
        else:
            rows += [("cut", readable(line)) for line in a[i:k] if line.strip()]
            rows += [("add" if line.strip() else "same", readable(line)) for line in b[j:m]]
    return _shortened(rows) if len(rows) > LONG else rows


def _shortened(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Only what is near a change."""
    near = set()
    for index, (kind, _) in enumerate(rows):
        if kind != "same":
            near |= set(range(index - AROUND, index + AROUND + 1))
    found: list[tuple[str, str]] = []
    skipped = 0
    for index, row in enumerate(rows):
        if index in near:
            if skipped:
                found.append(("skip", f"… {skipped} {plural(skipped, 'line')} as given"))
            skipped = 0
            found.append(row)
        else:
            skipped += 1
    if skipped:
        found.append(("skip", f"… {skipped} {plural(skipped, 'line')} as given"))
    return found


def word(row: dict[str, Any]) -> dict[str, str]:
    """A judgement in a word, and its style."""
    if row["verdict"] == "verified" and row["generator"] in GIVEN:
        return {"word": "verified", "style": "ok"}
    if row["solved_strict"]:
        return {"word": "solved", "style": "ok"}
    if row["verdict"] == "verified":
        return {"word": "refused", "style": "cheat"}
    return {"word": row["verdict"].replace("_", " "), "style": "wrong"}


def answer(row: dict[str, Any], given: str, proof: dict[str, Any] | None) -> dict[str, Any]:
    """An answer as the page shows it."""
    notes = [readable(text) for text in [*row["strict"], *row["failures"]]]
    if proof is not None and not row["solved_strict"]:
        notes.insert(0, f"The prover stopped after the stage {proof['stage']}; what fails:")
    elif proof is not None and proof["hints"]:
        families = sorted(set(proof["families"]))
        notes.insert(0, f"{len(proof['hints'])} invariants are left, of the families {', '.join(families)}.")
    return {
        **word(row),
        "name": NAMES.get(row["generator"], row["generator"].replace("_", " ")),
        "attempt": row["attempt"],
        "notes": notes[:12],
        "open": row["generator"] == "prover",
        "diff": difference(given, row["text"]),
    }


def shown(
    programs: list[dict[str, Any]],
    judged: Iterable[dict[str, Any]],
    proofs: dict[str, dict[str, Any]],
    limit: int,
) -> list[dict[str, Any]]:
    """The programs on the page: those that the prover misses first, then by name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in judged:
        rows.setdefault(row["program"], []).append(row)

    def rank(program: dict[str, Any]) -> tuple[bool, str]:
        solved = any(row["solved_strict"] for row in rows[program["program"]] if row["generator"] == "prover")
        return solved, program["program"]

    found = []
    for program in sorted(programs, key=rank)[:limit]:
        name, mine = program["program"], rows[program["program"]]
        bare = next(row for row in mine if row["generator"] == "bare")
        about = "verifies without hints" if bare["verdict"] == "verified" else "needs hints"
        how = {"published": "as published", "lines": "by lines", "syntax": "by syntax"}[program["stripped"]]
        found.append(
            {
                "program": readable(name),
                "about": f"{about}; hints taken out {how}",
                "cells": {row["generator"]: word(row) for row in mine},
                "answers": [
                    answer(row, program["given"], proofs.get(name) if row["generator"] == "prover" else None)
                    for row in mine
                    if row["generator"] != "bare"
                ],
            }
        )
    return found


def main(
    study: str,
    programs: Path,
    proofs: list[Path],
    judgements: Path,
    scores: Path,
    settings: Settings,
    out: Output,
) -> None:
    """Write the page."""
    table = read_table(programs, ["program", "given", "stripped"]).to_pylist()
    judged = read_table(judgements).to_pylist()
    proved = {row["program"]: row for path in proofs for row in read_table(path).to_pylist()}
    generators = list(dict.fromkeys(row["generator"] for row in judged))
    page = render(
        Path(__file__).with_name("page.html"),
        style=Path(__file__).with_name("page.css"),
        title="Programs and their proofs",
        study=study,
        findings=[readable(text) for text in read_json(scores)["findings"]],
        generators=generators,
        names={name: NAMES.get(name, name.replace("_", " ")) for name in generators},
        programs=shown(table, judged, proved, settings.programs),
        left_out=max(0, len(table) - settings.programs),
    )
    out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
