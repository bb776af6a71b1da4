"""An answer is the given text with whole hints inserted, and nothing else.

The tokens of the candidate must be those of the given text once hints are taken out, each of which is one
complete hint by the candidate's own syntax and holds only what may stand in it. What may be inserted:

- ``assert`` (with its proof), ``calc``, ``reveal``, calls of lemmas; ``forall .. ensures .. {..}``;
  ``ghost var`` of a name that occurs nowhere else; ``if``, ``match`` and blocks that hold nothing but these;
  in function bodies the first four; in those of lemmas variables of such names and loops, too;
- ``invariant`` and ``decreases`` of a loop, ``decreases`` of a method, function or lemma (no ``*`` in it);
- a new lemma with a body, of a name that occurs nowhere else, and the body of a lemma that was given none.

Comments, line breaks, semicolons that may as well be missing and parentheses around a whole condition do
not count. Everything else is refused: a list of what is allowed has no holes for what nobody thought of.
What Dafny says of the candidate and did not say of the given text, about axioms, missing bodies, ``only``
or ``verify``, refuses it too (:func:`new_warnings`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from steps.dafny.syntax.hints import Hint, in_expression
from steps.dafny.syntax.program import (
    CONTRACT,
    DECLARATIONS,
    Declaration,
    Program,
    Statement,
    UnreadableError,
)

ATTRIBUTES = frozenset(
    ("trigger", "induction", "fuel", "split_here", "isolate", "isolate_assertions", "focus")
)
"""Attributes that a hint may carry: how it is proved, never whether."""

FORBIDDEN = frozenset(
    [
        *("assume", "expect", "return", "break", "continue", "yield", "print", "modify", "new"),
        *("include", "module", "class", "trait", "datatype", "codatatype", "type", "newtype"),
        *("const", "import", "export", "method", "function", "predicate", "constructor"),
        "iterator",
    ]
)
"""Words that no inserted hint may hold, anywhere."""

BEFORE_BRACES = frozenset(
    [
        *("==", "!=", "<=", "<", ">=", "+", "-", "*", "/", "%", "!!", "in", "!in", "&&", "||", "!"),
        *("==>", "<==", "<==>", "=>", "::", ":=", ":|", ",", "then", "else"),
    ]
)
"""What an expression must go on behind, so that a brace there opens a set, never the body of a loop.

``>`` is none, since it may end a type."""

_WARNINGS = re.compile(
    r"axiom|bodyless|no body|assume|extern|\{:only|VerifyOnly|\{:verify|@Verify", re.IGNORECASE
)


def refusals(given: str, candidate: str) -> list[str]:
    """Why a candidate is no answer; nothing where it is one.

    Args:
        given: the program without hints.
        candidate: the whole answer.

    Whether the candidate verifies is another question, which only Dafny answers.
    """
    try:
        before = Program(given)
    except UnreadableError as error:
        return [f"the given text cannot be followed: {error}"]
    try:
        after = Program(candidate)
    except UnreadableError as error:
        return [f"the answer cannot be followed: {error}"]
    try:
        return _Comparison(before, after).refusals()
    except UnreadableError as error:  # of what stands in the body of a function
        return [f"the answer cannot be followed: {error}"]


def new_warnings(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Messages about axioms, bodies and what is not verified that only the candidate gets.

    Args:
        before: Dafny's warnings about the given text.
        after: those about the candidate.
    """
    more = Counter(after) - Counter(before)
    return sorted(f"Dafny warns: {message}" for message in more if _WARNINGS.search(message))


class _Comparison:
    """The given text and a candidate, token by token."""

    def __init__(self, before: Program, after: Program) -> None:
        self.before, self.after = before, after
        self.given_names = Counter(token.text for token in before.tokens if token.kind == "name")
        self.lemmas = {one.name for one in after.all() if one.kind in ("lemma", "colemma")}
        self.others = {one.name for one in after.all() if one.kind not in ("lemma", "colemma")}
        self.others |= {one.name for one in before.all() if one.kind not in ("lemma", "colemma")}
        self.methods = {"MoveNext"}  # which every iterator has
        self.methods |= {one.name for one in after.all() if one.kind in ("method", "constructor", "iterator")}
        self.skips: dict[int, list[int]] = {}
        """Behind which token each hint ends, by the token with which it begins."""
        self.why: dict[int, str] = {}
        """Why a hint that begins at a token may not be inserted."""
        self._find()

    def _find(self) -> None:
        """All places where a whole hint stands."""
        after = self.after
        for one in after.all():
            for clause in one.clauses:
                if clause.kind == "decreases" and one.kind not in ("iterator",):
                    self._clause(clause.start, clause.end, clause.expression)
            if one.kind in ("lemma", "colemma"):
                self._lemma(one)
            for statement in one.statements():
                self._statement(statement, inside_lemma=one.kind in ("lemma", "colemma"))
                for clause in statement.clauses:
                    if statement.kind in ("while", "for") and clause.kind in ("invariant", "decreases"):
                        self._clause(clause.start, clause.end, clause.expression)
            if one.expression is not None:
                for hint in in_expression(after, *one.expression):
                    self._in_function(hint)

    def _note(self, start: int, end: int, problem: str | None) -> None:
        if problem is None:
            self.skips.setdefault(start, []).append(end)
        else:
            self.why.setdefault(start, problem)

    def _clause(self, start: int, end: int, expression: tuple[int, int]) -> None:
        problem = self._words(start, end) or self._braces(*expression)
        if self._gives_up(*expression):
            problem = "decreases * gives up that it ends"
        while end in self.after.optional:
            end += 1
        self._note(start, end, problem)

    def _lemma(self, one: Declaration) -> None:
        problem = self._words(one.start, one.end, ("lemma", "colemma"))
        if set(one.modifiers) - {"ghost", "static", "twostate", "least", "greatest", "inductive"}:
            problem = f"a new lemma with {', '.join(one.modifiers)}"
        elif one.opens is None:
            problem = "a new lemma without a body"
        elif not one.name or self.given_names[one.name]:
            problem = f"a new lemma with a name that is there already: {one.name}"
        elif any(self._gives_up(*clause.expression) for clause in one.clauses):
            problem = "a lemma with decreases *"
        problem = problem or self._statements(one.body, inside_lemma=True)
        self._note(one.start, one.end, problem)
        if one.opens is not None:  # a body for a lemma that was given none
            problem = self._words(one.opens, one.end) or self._statements(one.body, inside_lemma=True)
            self._note(one.opens, one.end, problem)

    def _statement(self, one: Statement, inside_lemma: bool) -> None:
        if one.kind in ("empty", "label"):
            return
        problem = self._words(one.start, one.end) or self._allowed(one, inside_lemma)
        if self.after.at(one.start - 1) == "else":  # without it, what follows would take its place
            problem = "a branch of its own"
        self._note(one.start, one.end, problem)

    def _in_function(self, hint: Hint) -> None:
        assert hint.statement is not None
        problem = self._words(hint.start, hint.end) or self._allowed(hint.statement, inside_lemma=False)
        self._note(hint.start, hint.end, problem)

    def _words(self, start: int, end: int, but: Sequence[str] = ()) -> str | None:
        """What in a range of tokens may stand in no hint."""
        after, index = self.after, start
        while index < end:
            text, token = after.at(index), after.tokens[index]
            if token.kind in ("other", "directive"):
                return f"{token.text[:20]!r}"
            if text == "{:":
                name = after.at(index + 1)
                if name not in ATTRIBUTES:
                    return f"the attribute {{:{name}}}"
            elif text in FORBIDDEN and text not in but and after.at(index - 1) != ".":
                return text
            elif text == "(" and (called := self._called(index)) in self.methods:
                return f"a call of the method {called}"
            index += 1
        return None

    def _called(self, opening: int) -> str:
        """The name in front of the parenthesis that opens arguments, or in front of the types before it."""
        after, index, depth = self.after, opening - 1, 0
        if after.at(index) == ">":
            while index > 0 and after.at(index) not in (";", "{", "}", ":="):
                depth += {">": 1, "<": -1}.get(after.at(index), 0)
                index -= 1
                if depth == 0:
                    break
        return after.at(index)

    def _gives_up(self, start: int, end: int) -> bool:
        """Whether a measure holds ``*``, alone or in a list."""
        return any(
            self.after.at(index) == "*" and (index == start or self.after.at(index - 1) == ",")
            for index in _own(self.after, start, end)
        )

    def _braces(self, start: int, end: int) -> str | None:
        """Whether a brace in an expression outside parentheses might as well open a body."""
        after, matches = self.after, 0
        for index in _own(after, start, end):
            text = after.at(index)
            if after.tokens[index].kind == "name" and after.at(index - 1) != ".":
                matches += (text == "match") - (text == "case" and matches > 0)
            if text != "{" or index == start:
                continue
            if matches and after.at(index + 1) == "case":
                matches -= 1
                continue
            before = index - 1
            if after.at(before) in ("|", "multiset", "iset"):
                before -= 1
            if after.at(before) not in BEFORE_BRACES and before >= start:
                found = after.source(before, index + 1)
                return f"braces that may be a body, behind {found!r}; put the expression in parentheses"
        return None

    def _statements(self, statements: Iterable[Statement], inside_lemma: bool) -> str | None:
        for one in statements:
            problem = self._allowed(one, inside_lemma)
            if problem is not None:
                return problem
        return None

    def _allowed(self, one: Statement, inside_lemma: bool) -> str | None:
        """Why a statement is no hint; nothing where it is one."""
        after = self.after
        if one.kind in ("if", "match", "forall", "while", "for"):
            for start, end in (one.guard, *(clause.expression for clause in one.clauses)):
                if problem := self._braces(start, end):
                    return problem
        if one.kind in ("assert", "calc"):  # a proof is a place of its own, where all variables are ghosts
            return self._statements(one.body, inside_lemma=True)
        if one.kind in ("reveal", "block", "if", "match", "empty"):
            return self._statements(one.body, inside_lemma)
        if one.kind == "forall":
            if one.opens is None or not one.clauses:
                return "forall without a body or an ensures"
            return self._statements(one.body, inside_lemma=True)
        if one.kind == "ghost var" or (one.kind == "var" and inside_lemma):
            return self._fresh(one) or self._statements(one.body, inside_lemma)
        if one.kind == "call":
            first, last = one.guard
            names = [after.at(index) for index in range(first, last)]
            if ":=" in names or ":|" in names or ":-" in names:
                return self._ghost_assignment(one, names, inside_lemma)
            opening = next((index for index in range(first, last) if after.at(index) == "("), None)
            while opening is not None and after.closing(opening) != last - 1:
                opening = after.closing(opening) + 1
                opening = opening if opening < last and after.at(opening) == "(" else None
            called = self._called(opening) if opening is not None else ""
            if called not in self.lemmas or called in self.others:
                return (
                    f"a statement that calls no lemma of the program: {after.source(one.start, one.end)[:60]}"
                )
            return self._statements(one.body, inside_lemma)
        if inside_lemma and one.kind in ("while", "for"):
            if one.opens is None or any(self._gives_up(*clause.expression) for clause in one.clauses):
                return f"{one.kind} without a body or an end"
            return self._statements(one.body, inside_lemma)
        return f"{one.kind} is no hint"

    def _fresh(self, one: Statement) -> str | None:
        """Whether the variables of a declaration have names that occur nowhere in the given text."""
        after, (index, last) = self.after, one.guard
        names: list[str] = []
        while index < last:
            while after.at(index) == "{:":
                index = after.closing(index) + 1
            if after.tokens[index].kind != "name":
                return "a variable whose name cannot be read"
            names.append(after.at(index))
            index = self._behind_type(index + 1, last)
            if after.at(index) != ",":
                break
            index += 1
        if index < last and after.at(index) not in (":=", ":|", ":-"):
            return "a variable whose name cannot be read"
        taken = next((name for name in names if self.given_names[name]), None)
        return f"a variable with a name that is there already: {taken}" if taken else None

    def _behind_type(self, index: int, last: int) -> int:
        """The end of a variable's type, if it has one: a comma or what it becomes."""
        after, depth = self.after, 0
        while index < last and after.at(index) not in (":=", ":|", ":-"):
            if depth == 0 and after.at(index) == ",":
                break
            depth += {"<": 1, ">": -1}.get(after.at(index), 0)
            index = after.closing(index) + 1 if after.at(index) in ("(", "[", "{", "{:") else index + 1
        return index

    def _ghost_assignment(self, one: Statement, names: Sequence[str], inside_lemma: bool) -> str | None:
        """An assignment to variables of the answer's own."""
        target = []
        for name in names:
            if name in (":=", ":|", ":-"):
                break
            target.append(name)
        if any(
            name != "," and (self.given_names[name] or not re.match(r"[A-Za-z_?']", name)) for name in target
        ):
            return f"an assignment: {self.after.source(one.start, one.end)[:60]}"
        return self._statements(one.body, inside_lemma)

    def refusals(self) -> list[str]:
        """Look for a way through both texts that leaves out whole hints alone."""
        before, after = self.before, self.after
        left, right = _neutral(before), _neutral(after)
        last = len(before.tokens), len(after.tokens)
        waiting, seen = [(0, 0)], {(0, 0)}
        furthest = (0, 0)
        while waiting:
            i, j = waiting.pop()
            if (i, j) == last:
                return []
            furthest = max(furthest, (i, j))
            moves = [(i, end) for end in self.skips.get(j, ())]
            if i in left:
                moves.append((i + 1, j))
            if j in right:
                moves.append((i, j + 1))
            if i < last[0] and j < last[1] and before.tokens[i][:2] == after.tokens[j][:2]:
                moves.append((i + 1, j + 1))
            for move in moves:
                if move not in seen:
                    seen.add(move)
                    waiting.append(move)
        return [self._explain(*furthest)]

    def _explain(self, i: int, j: int) -> str:
        """What the texts differ by, where the longest way ends."""
        line = (
            self.after.text.count("\n", 0, self.after.tokens[j].start) + 1
            if j < len(self.after.tokens)
            else 0
        )
        if problem := self.why.get(j):
            return f"line {line}: inserted, but no hint: {problem}"
        found = self.after.source(j, min(j + 6, len(self.after.tokens))).split("\n")[0]
        expected = self.before.source(i, min(i + 6, len(self.before.tokens))).split("\n")[0]
        if not found:
            return f"the end comes where the given text has {expected!r}"
        return f"line {line}: {found!r} where the given text has {expected or 'its end'!r}"


def _neutral(program: Program) -> set[int]:
    """Tokens that may be missing or there: obsolete semicolons, parentheses around a whole condition."""
    found = set(program.optional)
    ends = {"{", ";", "}", "", "then", "invariant", "case"} | CONTRACT | DECLARATIONS
    for index in range(1, len(program.tokens)):
        if program.at(index) != "(":
            continue
        if program.at(index - 1) in ("if", "while", "match", "return", "invariant", "assert", *CONTRACT):
            close = program.closing(index)
            inside = {program.at(k) for k in _own(program, index + 1, close)}
            if program.at(close + 1) in ends and "," not in inside and close > index + 1:
                found |= {index, close}
    return found


def _own(program: Program, start: int, end: int) -> Iterable[int]:
    """The tokens of a range that stand in no further brackets."""
    index = start
    while index < end:
        yield index
        index = program.closing(index) + 1 if program.at(index) in ("(", "[", "{", "{:") else index + 1
