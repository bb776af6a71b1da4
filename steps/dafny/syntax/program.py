"""Declarations, contracts, statements and loops of a Dafny program, by position.

This is no parser of expressions: it finds where each part begins and ends, which is what hints and judges
need. A text that it does not follow is refused (:class:`UnreadableError`), never guessed.

Positions are indices of tokens, ``end`` exclusive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from steps.dafny.syntax.tokens import Token, tokens

CONTEXTUAL = frozenset(("least", "greatest", "inductive", "protected", "replaceable"))
"""Modifiers that may be names, too."""
MEMBERS = frozenset(
    ("method", "lemma", "colemma", "constructor", "function", "predicate", "copredicate", "iterator")
)
TYPES = frozenset(("class", "trait", "datatype", "codatatype", "type", "newtype"))
MODIFIERS = frozenset(("abstract", "ghost", "static", "opaque", "twostate", *CONTEXTUAL))
DECLARATIONS = MEMBERS | TYPES | MODIFIERS | {"module", "import", "export", "include", "const", "var"}
CONTRACT = frozenset(("requires", "ensures", "modifies", "reads", "decreases"))
LOOP = frozenset(("invariant", "decreases", "modifies"))

_RESERVED = CONTRACT | LOOP | {"by", "case"}
"""Words with which no expression goes on, whatever stands before: ``a is array<int> requires``."""

DEEPEST = 100
"""Statements or modules in each other; a text that goes deeper is refused, long before Python would be."""

_EXPECT_EXPRESSION = frozenset(
    [
        *("in", "is", "as", "then", "else", "if", "match", "case", "calc", "by", "assert"),
        *("assume", "expect", "return", "old", "set", "iset", "map", "imap", "multiset", "while"),
        *("invariant", "decreases", "modifies", "requires", "ensures", "reads", "returns"),
        *("yields", "new", "print"),
    ]
)
"""Names after which an opening brace is part of an expression or of a proof, not a body."""

_CALC = frozenset(("==", "!=", "<", "<=", ">", ">=", "<==>", "==>", "<=="))


class UnreadableError(Exception):
    """A text whose parts cannot be told apart; says what was found and where."""

    def __init__(self, token: Token | None, expected: str) -> None:
        self.start = token.start if token else None
        found = f"found {token.text[:40]!r}" if token else "found the end"
        super().__init__(f"{found}, expected {expected}")


@dataclasses.dataclass
class Clause:
    """A part of a contract or of a loop's header: keyword, expression, perhaps a semicolon."""

    kind: str
    start: int
    end: int
    expression: tuple[int, int]


@dataclasses.dataclass
class Statement:
    """A statement with all that belongs to it."""

    kind: str
    """``assert``, ``while``, ...; ``block``; ``call`` for all that begin with an expression."""
    start: int
    end: int = 0
    guard: tuple[int, int] = (0, 0)
    """Of an if, a while or a for; the expression of an assert; what a forall ranges over."""
    clauses: list[Clause] = dataclasses.field(default_factory=list)
    body: list[Statement] = dataclasses.field(default_factory=list)
    """Statements inside, in order; those of an ``else`` follow those before it."""
    opens: int | None = None
    """The brace that opens the body of a loop or of a forall."""

    def walk(self) -> Iterator[Statement]:
        """It and all inside, in order."""
        waiting = [self]
        while waiting:
            one = waiting.pop()
            yield one
            waiting += reversed(one.body)


@dataclasses.dataclass
class Declaration:
    """A module, type or member."""

    kind: str
    name: str
    start: int
    end: int = 0
    modifiers: tuple[str, ...] = ()
    parameters: tuple[int, int] = (0, 0)
    """Between the parentheses."""
    result: tuple[int, int] = (0, 0)
    """Of a method what stands between the parentheses after ``returns``, of a function its type."""
    clauses: list[Clause] = dataclasses.field(default_factory=list)
    body: list[Statement] = dataclasses.field(default_factory=list)
    opens: int | None = None
    """The brace that opens the body."""
    expression: tuple[int, int] | None = None
    """The body of a function, between the braces."""
    members: list[Declaration] = dataclasses.field(default_factory=list)

    def walk(self) -> Iterator[Declaration]:
        """It and all inside."""
        yield self
        for inside in self.members:
            yield from inside.walk()

    def statements(self) -> Iterator[Statement]:
        """All statements of its body, those inside others included."""
        for one in self.body:
            yield from one.walk()


class Program:
    """A text and its parts.

    Args:
        text: the program.

    Raises:
        UnreadableError: it cannot be followed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.optional: set[int] = set()
        """Semicolons that may as well be missing."""
        self._depth = 0
        self._closing = self._brackets()
        self.declarations, end = self._declarations(0)
        if end < len(self.tokens):
            raise UnreadableError(self.tokens[end], "a declaration")

    def all(self) -> Iterator[Declaration]:
        """All declarations, those inside others included."""
        for one in self.declarations:
            yield from one.walk()

    def source(self, start: int, end: int) -> str:
        """The text of tokens ``start`` to ``end``, comments between them included."""
        if start >= end:
            return ""
        return self.text[self.tokens[start].start : self.tokens[end - 1].end]

    def _brackets(self) -> dict[int, int]:
        pairs, waiting = {}, []
        closes = {"(": ")", "[": "]", "{": "}", "{:": "}"}
        for index, token in enumerate(self.tokens):
            if token.kind == "directive":
                raise UnreadableError(token, "no line that begins with #")
            if token.kind != "sign":
                continue
            if token.text in closes:
                waiting.append((index, closes[token.text]))
            elif token.text in (")", "]", "}"):
                if not waiting or waiting[-1][1] != token.text:
                    raise UnreadableError(token, waiting[-1][1] if waiting else "no closing bracket")
                pairs[waiting.pop()[0]] = index
        if waiting:
            raise UnreadableError(None, waiting[-1][1])
        return pairs

    def closing(self, index: int) -> int:
        """The bracket that closes the one at ``index``."""
        return self._closing[index]

    def at(self, index: int) -> str:
        """The text of a token; empty behind the last and for strings, which are no keywords."""
        if not 0 <= index < len(self.tokens) or self.tokens[index].kind in ("string", "char"):
            return ""
        return self.tokens[index].text

    def _token(self, index: int) -> Token | None:
        return self.tokens[index] if index < len(self.tokens) else None

    def _expect(self, index: int, text: str) -> int:
        if self.at(index) != text:
            raise UnreadableError(self._token(index), text)
        return index + 1

    def ends_expression(self, index: int) -> bool:
        """Whether an expression may end with this token."""
        if not 0 <= index < len(self.tokens):
            return False
        token = self.tokens[index]
        if token.kind == "sign":
            if token.text == "|":  # the second bar of a cardinality
                return self.ends_expression(index - 1)
            return token.text in (")", "]", "}")
        if token.kind == "name":
            return token.text not in _EXPECT_EXPRESSION or self.at(index - 1) == "."
        return token.kind in ("number", "string", "char")

    def skip(self, start: int, stops: Collection[str]) -> int:
        """Where an expression that begins at ``start`` is followed by one of ``stops`` or its block ends.

        Keywords and braces stop it where an expression may end; a semicolon does unless it belongs to a
        ``var`` or an ``assert`` inside the expression. A ``match`` there has braces or none, an ``assert`` a
        semicolon or a proof.
        """
        index = begins = start  # where an expression begins: behind what stands in front of another, again
        matches, calculation = 0, False
        waiting: list[str] = []  # words whose semicolon is still to come
        while index < len(self.tokens):
            token = self.tokens[index]
            text = self.at(index)
            if token.kind == "sign":
                if text in ("}", ")", "]"):
                    return index
                if text == "{" and calculation:
                    calculation, begins = False, self.closing(index) + 1
                elif text == ";":
                    if not waiting:
                        return index
                    waiting.pop()
                    begins = index + 1
                elif text == "{" and index > begins and self._complete(index, begins):
                    if matches == 0:
                        return index
                    matches -= 1
                elif text in stops and text != "{":
                    return index
                if text in ("(", "[", "{", "{:"):
                    index = self.closing(index)
            elif token.kind == "name" and self.at(index - 1) != ".":
                complete = index > start and (
                    self._complete(index, begins)
                    or text in _RESERVED
                    or self.at(index - 1) == ";"
                    or (self.at(index - 1) == ">" and text in DECLARATIONS)  # of a type
                )
                if text == "case" and matches:
                    matches -= 1  # one without braces
                elif text == "by" and waiting[-1:] == ["assert"] and self.at(index + 1) == "{":
                    waiting.pop()
                    index = self.closing(index + 1)
                    begins = index + 1
                elif text in stops and complete:
                    return index
                elif text == "match":
                    matches += 1
                elif text == "calc":
                    calculation = True
                elif text in ("var", "assert", "assume", "reveal", "expect") and self.at(index - 1) != ":|":
                    waiting.append(text)
            index += 1
        return index

    def _complete(self, index: int, start: int) -> bool:
        """Whether an expression that begins at ``start`` may end before ``index``; ``*`` is one, too."""
        before = self.at(index - 2) if index - 1 > start else ","
        return self.ends_expression(index - 1) or (
            self.at(index - 1) == "*" and before in (",", "to", "downto")
        )

    # Declarations

    def _deeper(self, index: int) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise UnreadableError(self._token(index), f"at most {DEEPEST} statements in each other")

    def _declarations(self, index: int) -> tuple[list[Declaration], int]:
        self._deeper(index)
        found = []
        while index < len(self.tokens) and self.at(index) != "}":
            if self.at(index) == ";":
                self.optional.add(index)
                index += 1
                continue
            one = self._declaration(index)
            found.append(one)
            index = one.end
        self._depth -= 1
        return found, index

    def _declaration(self, start: int) -> Declaration:
        index, modifiers = start, []
        while self.at(index) in MODIFIERS or self.at(index) == "@":
            if self.at(index) == "@":
                index += 2
                while self.at(index) == ".":
                    index += 2
                if self.at(index) == "(":
                    index = self.closing(index) + 1
                modifiers.append("@")
                continue
            modifiers.append(self.at(index))
            index += 1
        kind = self.at(index)
        if kind not in DECLARATIONS:
            raise UnreadableError(self._token(index), "a declaration")
        one = Declaration(kind, "", start, modifiers=tuple(modifiers))
        if kind in MEMBERS:
            self._member(one, index + 1)
        elif kind in ("import", "export", "include"):
            index += 1
            while index < len(self.tokens) and self.at(index) not in DECLARATIONS | {"}", ";", "@"}:
                index += 1
            one.end = index
        else:
            self._other(one, index + 1)
        return one

    def _other(self, one: Declaration, index: int) -> None:
        """A module, type, constant or field."""
        index = self._attributes(index)
        one.name = self.at(index)
        index += 1
        if one.kind == "module":
            while self.at(index) not in ("{", ""):
                index += 1
        elif one.kind in ("class", "trait"):
            while self.at(index) != "{":
                if index >= len(self.tokens) or self.at(index) in DECLARATIONS | {"}"}:
                    one.end = index
                    return
                index += 1
        else:
            index = self._until_declaration(index)
        if self.at(index) == "{" and one.kind not in ("const", "var"):
            one.opens = index
            one.members, end = self._declarations(index + 1)
            index = self._expect(end, "}")
        one.end = index

    def _until_declaration(self, index: int) -> int:
        """The end of a type, constant or field: the next declaration, a semicolon, a body or the end."""
        stops = DECLARATIONS | {";", "@"}
        while True:
            index = self.skip(index, stops)
            if self.at(index) == "ghost" and self.at(index + 1) == "witness":
                index += 2
                continue
            return index

    def _attributes(self, index: int) -> int:
        while self.at(index) == "{:":
            index = self.closing(index) + 1
        return index

    def _member(self, one: Declaration, index: int) -> None:
        if self.at(index) == "method":  # function method
            index += 1
        index = self._attributes(index)
        if self.at(index) not in ("(", "<", "[", "{", "") and self.at(index) not in CONTRACT:
            one.name = self.at(index)
            index += 1
        if self.at(index) == "<":
            depth = 0
            while True:
                depth += {"<": 1, ">": -1}.get(self.at(index), 0)
                index += 1
                if depth == 0 or index >= len(self.tokens):
                    break
        if self.at(index) == "[":
            index = self.closing(index) + 1
        if self.at(index) == "(":
            one.parameters = (index + 1, self.closing(index))
            index = self.closing(index) + 1
        if self.at(index) in ("returns", "yields"):
            self._expect(index + 1, "(")
            one.result = (index + 2, self.closing(index + 1))
            index = self.closing(index + 1) + 1
        elif self.at(index) == ":":
            first = index = index + 1
            while index < len(self.tokens) and self.at(index) not in CONTRACT | DECLARATIONS | {
                "{",
                "}",
                ";",
                "@",
            }:
                index = self.closing(index) + 1 if self.at(index) in ("(", "[") else index + 1
            one.result = (first, index)
        index = self._clauses(one.clauses, index, CONTRACT | {"yield"}, DECLARATIONS | {"@"})
        if self.at(index) == "{":
            one.opens = index
            if one.kind in ("function", "predicate", "copredicate"):
                one.expression = (index + 1, self.closing(index))
                index = self.closing(index) + 1
            else:
                one.body, index = self._block(index)
            if self.at(index) == "by" and self.at(index + 1) == "method":
                one.body, index = self._block(index + 2)
        one.end = index

    def _clauses(
        self, found: list[Clause], index: int, kinds: Collection[str], further: Collection[str]
    ) -> int:
        """Read the clauses that begin at ``index``; returns where they end."""
        while True:
            if self.at(index) == ";" and (self.at(index + 1) in kinds or self.at(index + 1) == "{"):
                self.optional.add(index)
                index += 1
                continue
            if self.at(index) not in kinds:
                return index
            kind, start = self.at(index), index
            if kind == "yield":  # yield requires
                index += 1
            index = self._attributes(index + 1)
            if self.at(index + 1) == ":" and self.tokens[index].kind == "name":  # a label
                index += 2
            first = index
            if self.at(index) == "*":
                index += 1
            else:
                index = self.skip(index, {*kinds, *further, "{"})
            last = index
            while self.at(last - 1) == ";" and last > first:
                last -= 1
                self.optional.add(last)
            if last == first:
                raise UnreadableError(self._token(index), f"an expression after {kind}")
            found.append(Clause(kind, start, last, (first, last)))

    # Statements

    def _block(self, index: int) -> tuple[list[Statement], int]:
        """The statements between braces, the first of which is at ``index``, and where the block ends."""
        self._expect(index, "{")
        found, index = self._statements(index + 1)
        return found, self._expect(index, "}")

    def _statements(self, index: int) -> tuple[list[Statement], int]:
        found = []
        while self.at(index) not in ("}", "case", "") or self.tokens[index].kind == "string":
            one = self.statement(index)
            found.append(one)
            index = one.end
        return found, index

    def statement(self, start: int) -> Statement:
        """The statement that begins at ``start``.

        Raises:
            UnreadableError: it cannot be followed.
        """
        self._deeper(start)
        one = self._of_any_kind(start)
        self._depth -= 1
        return one

    def _of_any_kind(self, start: int) -> Statement:
        text = self.at(start)
        read = {
            "{": self._braces,
            "if": self._if,
            "while": self._loop,
            "for": self._loop,
            "match": self._match,
            "forall": self._forall,
            "calc": self._calc,
            "label": self._label,
        }.get(text)
        if read is not None:
            return read(start)
        if text == ";":
            return Statement("empty", start, start + 1)
        kinds = (
            "assert",
            "assume",
            "expect",
            "reveal",
            "hide",
            "var",
            "return",
            "break",
            "continue",
            "yield",
        )
        kind = text if text in (*kinds, "print", "modify", "new") else "call"
        if text == "ghost" and self.at(start + 1) == "var":
            kind = "ghost var"
        if text in ("const", "opaque", "@") or (text in DECLARATIONS - CONTEXTUAL and kind == "call"):
            raise UnreadableError(self._token(start), "a statement")
        return self._simple(kind, start)

    def _simple(self, kind: str, start: int) -> Statement:
        """A statement that ends with a semicolon or a proof in braces."""
        one = Statement(kind, start)
        index = start + {"call": 0, "ghost var": 2}.get(kind, 1)
        index = self._attributes(index)
        if kind == "assert" and self.at(index + 1) == ":" and self.tokens[index].kind == "name":
            index += 2  # a label
        first = index
        index = self.skip(index, (";", "by"))
        one.guard = (first, index)
        if self.at(index) == "by":
            one.opens = index + 1
            one.body, index = self._block(index + 1)
            one.end = index + (self.at(index) == ";" and kind != "assert")
        else:
            one.end = self._expect(index, ";")
        return one

    def _braces(self, start: int) -> Statement:
        body, end = self._block(start)
        return Statement("block", start, end, body=body, opens=start)

    def _guard(self, index: int, stops: Collection[str]) -> int:
        """The end of a guard that begins at ``index``."""
        if self.at(index) == "*":
            return index + 1
        return self.skip(index, {*stops, "{"})

    def _if(self, start: int) -> Statement:
        one = Statement("if", start)
        index = self._attributes(start + 1)
        if self.at(index) in ("{", "case"):
            one.body, one.end = self._cases(index)
            return one
        one.guard = (index, self._guard(index, ()))
        one.opens = one.guard[1]
        one.body, index = self._block(one.guard[1])
        if self.at(index) == "else":
            if self.at(index + 1) not in ("if", "{"):
                raise UnreadableError(self._token(index + 1), "if or {")
            after = self.statement(index + 1)
            one.body.append(after)
            index = after.end
        one.end = index
        return one

    def _cases(self, index: int) -> tuple[list[Statement], int]:
        braces = self.at(index) == "{"
        index += braces
        found: list[Statement] = []
        while self.at(index) == "case":
            index = self.skip(self._attributes(index + 1), ("=>",))
            inside, index = self._statements(self._expect(index, "=>"))
            found += inside
        return found, self._expect(index, "}") if braces else index

    def _match(self, start: int) -> Statement:
        one = Statement("match", start)
        index = start + 1
        end = self.skip(index, ("case",))
        one.guard = (index, end)
        one.body, one.end = self._cases(end)
        return one

    def _loop(self, start: int) -> Statement:
        one = Statement(self.at(start), start)
        index = self._attributes(start + 1)
        if self.at(index) != "{" and self.at(index) not in LOOP:
            one.guard = (index, index := self._guard_of_loop(index))
        index = self._clauses(one.clauses, index, LOOP, ())
        if self.at(index) == "{":
            one.opens = index
            if self.at(index + 1) == "case" and one.guard == (0, 0):
                one.body, index = self._cases(index)
            else:
                one.body, index = self._block(index)
        one.end = index
        return one

    def _guard_of_loop(self, index: int) -> int:
        end = self._guard(index, LOOP)
        if self.at(end) in ("downto"):
            raise UnreadableError(self._token(end), "a loop's header")
        return end

    def _forall(self, start: int) -> Statement:
        one = Statement("forall", start)
        index = self._attributes(start + 1)
        one.guard = (index, index := self.skip(index, {"ensures", "{", ";"}))
        index = self._clauses(one.clauses, index, ("ensures",), ())
        if self.at(index) == "{":
            one.opens = index
            one.body, index = self._block(index)
        elif self.at(index) == ";":
            index += 1
        one.end = index
        return one

    def _calc(self, start: int) -> Statement:
        one = Statement("calc", start)
        index = self._attributes(start + 1)
        index = self._operator(index)
        index = self._expect(index, "{")
        while self.at(index) != "}":
            if (after := self._operator(index)) != index:
                index = after
            elif self.at(index) in ("{", "calc"):
                inside = self.statement(index)
                one.body.append(inside)
                index = inside.end
            else:
                index = self._expect(self.skip(index, (";",)), ";")
        one.end = index + 1
        return one

    def _operator(self, index: int) -> int:
        """Behind the operator of a step of a calc, if there is one."""
        if self.at(index) not in _CALC:
            return index
        if self.at(index + 1) == "#":
            return self.closing(self._expect(index + 2, "[") - 1) + 1
        return index + 1

    def _label(self, start: int) -> Statement:
        index = self._expect(start + 2, ":")
        inside = self.statement(index)
        return Statement("label", start, inside.end, body=[inside])
