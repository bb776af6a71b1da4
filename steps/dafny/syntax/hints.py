"""Hints: finding them, taking them out, putting them in.

A hint is what helps a proof and changes nothing else. DafnyBench takes out lines that begin with ``assert``,
``invariant`` or ``decreases`` (:func:`strip_lines`, 378 of 380 texts exactly); :func:`strip` takes out the
same kinds of hints by syntax, whole, wherever they stand.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from steps.dafny.syntax.program import Clause, Declaration, Program, Statement

LEADING = ("assert", "invariant", "decreases")
"""Words with which a line begins that the benchmark's filter takes out."""


def strip_lines(text: str) -> str:
    """The text without the lines that begin with one of ``LEADING``, as the benchmark was made.

    Two of 380 published texts were edited by hand besides (test IDs 037 and 577: lines that went on, hints in
    comments).
    """
    return "".join(line for line in _lines(text) if not line.strip().startswith(LEADING))


def _lines(text: str) -> list[str]:
    """The lines of a text with what ends them, a line feed alone."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


@dataclasses.dataclass(frozen=True)
class Hint:
    """A whole hint, by tokens, ``end`` exclusive."""

    kind: str
    start: int
    end: int
    statement: Statement | None = None
    declaration: Declaration | None = None


def removable(program: Program) -> list[Hint]:
    """The hints of the kinds that the benchmark takes out, outermost ones, in order.

    ``decreases *`` stays: it is no hint but says that a method or loop need not end.
    """
    found: list[Hint] = []
    for one in program.all():
        found += [
            Hint(c.kind, c.start, _with_semicolon(program, c)) for c in one.clauses if _is_hint(program, c)
        ]
        labelled = {id(s.body[0]) for s in one.statements() if s.kind == "label"}
        for statement in one.statements():
            if statement.kind == "assert" and id(statement) not in labelled:
                found.append(Hint("assert", statement.start, statement.end))
            found += [
                Hint(c.kind, c.start, _with_semicolon(program, c))
                for c in statement.clauses
                if _is_hint(program, c) and statement.kind in ("while", "for")
            ]
        if one.expression is not None:
            found += [hint for hint in in_expression(program, *one.expression) if hint.kind == "assert"]
    found.sort(key=lambda hint: (hint.start, -hint.end))
    outermost: list[Hint] = []
    for hint in found:
        if not outermost or hint.start >= outermost[-1].end:
            outermost.append(hint)
    return outermost


def _with_semicolon(program: Program, clause: Clause) -> int:
    end = clause.end
    while end in program.optional:
        end += 1
    return end


def _is_hint(program: Program, clause: Clause) -> bool:
    return clause.kind in ("invariant", "decreases") and program.at(clause.expression[0]) != "*"


def in_expression(program: Program, start: int, end: int) -> list[Hint]:
    """The hints in the body of a function: ``assert P; E``, ``reveal f(); E``, ``L(x); E``, ``calc {..} E``.

    Only where an expression begins after a brace, ``then``, ``else``, ``=>`` or another such hint, so that
    what follows is the same expression with and without it.
    """
    found: list[Hint] = []
    for index in range(start, end):
        before = program.at(index - 1)
        behind = any(hint.end == index for hint in found)
        if before not in ("{", "then", "else", "=>") and before != ";" and not behind:
            continue
        word = program.at(index)
        if word == "calc":
            statement = program.statement(index)
            found.append(Hint("calc", index, statement.end, statement))
        elif word in ("assert", "reveal"):
            after = program.skip(index + 1, (";", "by"))
            if word == "assert" and program.at(after) == "by":
                statement = program.statement(index)
                found.append(Hint(word, index, statement.end, statement))
            elif program.at(after) == ";":
                statement = Statement(word, index, after + 1, (index + 1, after))
                found.append(Hint(word, index, after + 1, statement))
        elif program.tokens[index].kind == "name" and word not in ("var", "ghost", "if", "match", "assume"):
            after = index + 1
            while program.at(after) == "." and program.tokens[after + 1].kind == "name":
                after += 2
            if program.at(after) == "(" and program.at(program.closing(after) + 1) == ";":
                last = program.closing(after) + 2
                statement = Statement("call", index, last, (index, last - 1))
                found.append(Hint("call", index, last, statement))
    return found


def strip(text: str) -> str:
    """The text without its hints, by syntax; lines that held nothing else go, too.

    Raises:
        UnreadableError: the text cannot be followed.
    """
    program = Program(text)
    spans = [
        (program.tokens[hint.start].start, program.tokens[hint.end - 1].end) for hint in removable(program)
    ]
    return without(text, spans)


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text without some spans, in characters, and without the lines that they leave empty."""
    parts, at = [], 0
    for start, end in spans:
        left = start
        while left > 0 and text[left - 1] in " \t":
            left -= 1
        right = end
        while right < len(text) and text[right] in " \t":
            right += 1
        alone = (left == 0 or text[left - 1] in "\r\n") and (right == len(text) or text[right] in "\r\n")
        if alone:
            if text[right : right + 2] == "\r\n":
                right += 2
            elif right < len(text):
                right += 1
            start, end = max(left, at), right
        parts.append(text[at:start])
        at = end
    parts.append(text[at:])
    return "".join(parts)


@dataclasses.dataclass(frozen=True)
class Insertion:
    """A hint to be put into a text."""

    offset: int
    """Before which character of the given text it stands."""
    text: str
    indent: str = ""


def insert(text: str, insertions: Sequence[Insertion]) -> tuple[str, list[int]]:
    """The text with hints on lines of their own, in order.

    Returns:
        The text, and of each hint the line, from 0, in which it stands.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    order = sorted(range(len(insertions)), key=lambda number: (insertions[number].offset, number))
    parts: list[str] = []
    lines = [0] * len(insertions)
    at = count = 0

    def add(piece: str) -> None:
        nonlocal count
        parts.append(piece)
        count += len(re.findall(r"\r\n|\r|\n", piece))

    for position, number in enumerate(order):
        one = insertions[number]
        add(text[at : one.offset])
        add(newline)
        lines[number] = count
        add(f"{one.indent}{one.text}")
        at = one.offset
        if position + 1 == len(order) or insertions[order[position + 1]].offset != at:
            blanks = at + len(text[at:]) - len(text[at:].lstrip(" \t"))
            if text[blanks : blanks + 1] not in (
                "\r",
                "\n",
                "",
            ):  # what follows on the line goes on a new one
                add(newline + one.indent.removesuffix("  "))
                at = blanks
    add(text[at:])
    return "".join(parts), lines


def hint_characters(text: str) -> int:
    """Characters of hints as the benchmark counts them: of the lines that its filter takes out, stripped."""
    return sum(len(line.strip()) for line in _lines(text) if line.strip().startswith(LEADING))
