"""Verdicts, and how they are read from what Dafny says.

=================  ==============================================================================
verdict            when
=================  ==============================================================================
verified           at least one proof, no error, nothing given up, exit 0
failed             a proof failed
out_of_resource    a proof used up its resource units, none failed
timeout            a limit of time or memory ended the process, or a limit in seconds that the text carries
inconclusive       Z3 gave up
parse, resolve     it is no program
unsupported        it includes other files, or is no text that Dafny would read as it is
nothing            there is nothing to verify
crash              an internal error, or an answer that cannot be read
=================  ==============================================================================

Only the first solves. Lines count from 0, characters from 0 in UTF-16 units, in every answer here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.core.digest import fingerprint
from steps.core.errors import UserError

LASTING = (
    "verified",
    "failed",
    "out_of_resource",
    "inconclusive",
    "parse",
    "resolve",
    "unsupported",
    "nothing",
)
"""Verdicts that depend on the text alone; the others are asked for again."""

ERROR, WARNING, HINT = 1, 2, 4
"""Severities, as the language server numbers them."""


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """One message about a place."""

    line: int
    character: int
    severity: int
    source: str
    message: str
    related: tuple[tuple[int, int, str], ...] = ()
    """Places that it is about, too: line, character, message."""

    @property
    def summary(self) -> str:
        """The first line of the message: the server puts related ones below it."""
        return self.message.partition("\n")[0]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What Dafny says of a text."""

    verdict: str
    proofs: int = 0
    errors: int = 0
    message: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **{field: getattr(self, field) for field in ("verdict", "proofs", "errors", "message")},
            "diagnostics": [_plain(one) for one in self.diagnostics],
        }

    @classmethod
    def of(cls, value: dict[str, Any]) -> Verdict:
        """From :meth:`plain`."""
        found = tuple(diagnostic(one) for one in value["diagnostics"])
        return cls(value["verdict"], value["proofs"], value["errors"], value["message"], found)


def _plain(one: Diagnostic) -> list[Any]:
    related = [list(place) for place in one.related]
    return [one.line, one.character, one.severity, one.source, one.message, related]


def diagnostic(value: list[Any]) -> Diagnostic:
    """A diagnostic from the list that :meth:`Verdict.plain` makes of it."""
    line, character, severity, source, message, related = value
    return Diagnostic(line, character, severity, source, message, tuple((a, b, c) for a, b, c in related))


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server says of a text."""

    state: str
    """``proved``, ``failed``, ``unresolved`` (parse and resolution errors), ``lost`` (no answer)."""
    diagnostics: tuple[Diagnostic, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON: errors alone, without the text of places that they are about."""
        return {
            "state": self.state,
            "errors": [
                [one.line, one.character, one.message, [list(place) for place in one.related]]
                for one in self.diagnostics
            ],
        }

    @classmethod
    def of(cls, value: dict[str, Any]) -> Answer:
        """From :meth:`plain`."""
        found = [
            diagnostic([line, character, ERROR, "", message, related])
            for line, character, message, related in value["errors"]
        ]
        return cls(value["state"], tuple(found))


_SUMMARY = re.compile(r"Dafny program verifier finished with (\d+) verified, (\d+) errors?(.*)")


def unsupported(text: str) -> Verdict | None:
    """The verdict on what Dafny would not read as it stands here, without asking it.

    Files that a program includes are not verified by it, and stand beside it, where we put nothing.
    """
    from steps.dafny.syntax.tokens import tokens

    for one, other in itertools.pairwise(tokens(text)):
        if one.text == "include" and other.kind == "string":
            return Verdict("unsupported", message=f"it includes {other.text}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Verdict("unsupported", message="it is no Unicode text")
    return None


def clock_bound(text: str) -> bool:
    """Whether a text carries a limit in seconds, which wins over the options: the clock decides again."""
    from steps.dafny.syntax.tokens import tokens

    found = tokens(text)
    return any(
        (before.text, after.text) in (("{:", "timeLimit"), ("{:", "timeLimitMultiplier"), ("@", "TimeLimit"))
        for before, after in itertools.pairwise(found)
    )


def of_process(output: bytes, ended: str) -> Verdict:
    """The verdict of ``dafny verify --json-output``.

    Args:
        output: all that it wrote.
        ended: how it ended, as the guard says.

    Raises:
        UserError: Dafny cannot use its Z3, which it reports like a failed proof.
    """
    if ended in ("time", "memory"):
        return Verdict("timeout", message=f"ended at its limit of {ended}")
    found: list[Diagnostic] = []
    internal = ""
    summary: re.Match[str] | None = None
    for line in output.split(b"\n"):
        try:
            item = json.loads(line)
            kind, value = item["type"], item["value"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if kind == "status" and isinstance(value, str):
            summary = _SUMMARY.search(value) or summary
        elif kind == "diagnostic":
            one = _of_json(value)
            if one is None:
                internal = internal or str(value.get("defaultFormatMessage", ""))
            else:
                found.append(one)
            if one is None and value.get("source") == "Verifier":
                raise UserError(
                    f"Z3: Dafny cannot use it ({internal.strip()[:200]}); name another in"
                    " dafny.verifier.solver"
                )
    code = ended.removeprefix("itself ")
    # by all that they hold: a set is in another order in each process
    diagnostics = tuple(sorted(set(found), key=dataclasses.astuple))
    errors = [one for one in diagnostics if one.severity == ERROR]
    for source, verdict in (("Parser", "parse"), ("Resolver", "resolve"), ("Rewriter", "resolve")):
        if code != "0" and summary is None and any(one.source == source for one in errors):
            return Verdict(verdict, 0, len(errors), diagnostics=diagnostics)
    if summary is None:
        return Verdict(
            "crash", message=f"{internal.strip()[:300]} (exit {code})".strip(), diagnostics=diagnostics
        )
    proofs, wrong, more = int(summary[1]), int(summary[2]), summary[3]
    verdict = _of_counts(proofs, wrong, more, code)
    return Verdict(verdict, proofs, wrong, diagnostics=diagnostics)


def _of_counts(proofs: int, errors: int, more: str, code: str) -> str:
    """The verdict by Dafny's last line: other counts than errors (out of resource) stand behind these."""
    if errors:
        return "failed"
    for words, verdict in (
        ("out of resource", "out_of_resource"),
        ("time out", "timeout"),
        ("inconclusive", "inconclusive"),
        ("undetermined", "inconclusive"),
        ("out of memory", "timeout"),
    ):
        if words in more:
            return verdict
    if more.strip(" ,") or code != "0":
        return "crash"
    return "verified" if proofs else "nothing"


_SEVERITIES = {1: ERROR, 2: WARNING}


def _of_json(value: dict[str, Any]) -> Diagnostic | None:
    """A diagnostic of the command line, which counts lines from 1; nothing where it names no place."""
    place = _place(value)
    if place is None:
        return None
    related = []
    for one in value.get("relatedInformation") or ():
        where = _place(one)
        if where is not None:
            related.append((*where, str(one.get("defaultFormatMessage", ""))))
    severity = int(value.get("severity", ERROR))
    return Diagnostic(*place, severity, str(value.get("source")), _message(value), tuple(related))


def _message(value: dict[str, Any]) -> str:
    text = str(value.get("defaultFormatMessage", ""))
    for number, argument in enumerate(value.get("arguments") or ()):
        text = text.replace(f"{{{number}}}", str(argument))
    return text


def _place(value: dict[str, Any]) -> tuple[int, int] | None:
    try:
        start = value["location"]["range"]["start"]
        line, character = int(start["line"]) - 1, int(start["character"])
    except (KeyError, TypeError, ValueError):
        return None
    return (line, character) if value["location"].get("filename") is not None and line >= 0 else None


def text_digest(text: str) -> str:
    """SHA-256 of a program."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Calls:
    """What Dafny was asked and what it answered, by the text and all that decides.

    While a job works each answer is a line of a file beside its output, so that a killed one asks nothing
    twice; at its end those that it used are written down, sorted, and the file goes. What was recorded before
    is looked up first.

    Args:
        kept: the file of the job; a last line that was cut is passed over.
        recorded: calls of an earlier run, as :meth:`write` leaves them.
    """

    def __init__(self, kept: Path, recorded: Path | None = None) -> None:
        self._path = kept
        self._known = _read_calls(recorded) if recorded is not None else {}
        self._known |= _read_calls(kept) if kept.exists() else {}
        self._used: dict[str, Any] = {}

    def answer(
        self,
        kind: str,
        text: str,
        decides: dict[str, Any],
        ask: Callable[[], Any],
        lasting: Callable[[Any], bool],
    ) -> Any:
        """What is known, or what ``ask`` says, which is kept where it is ``lasting``.

        Args:
            kind: of the question: ``verify`` or ``search``.
            text: the program.
            decides: versions and limits on which the answer depends besides.
            ask: answers as plain JSON.
            lasting: whether an answer depends on the question alone.
        """
        key = fingerprint([kind, text, decides])[:32]
        if key not in self._known:
            found = ask()
            if lasting(found):
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, kind, found], ensure_ascii=True) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            self._known[key] = [kind, found]
        self._used[key] = self._known[key]
        return self._known[key][1]

    def write(self, out: Path) -> None:
        """Write the calls that were used, in the order of their keys."""
        lines = [json.dumps([key, *self._used[key]], ensure_ascii=True) for key in sorted(self._used)]
        out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def done(self) -> None:
        """Remove the file of the job."""
        self._path.unlink(missing_ok=True)


def _read_calls(path: Path) -> dict[str, Any]:
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            key, kind, answer = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        found[key] = [kind, answer]
    return found
