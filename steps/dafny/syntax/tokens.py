"""Dafny's tokens, as its scanner sees them.

Comments nest. Only a line feed or a carriage return ends a ``//`` comment; form feed and U+2028 do not. An
apostrophe may stand in a name, and ``'"'`` is a character. A line that begins with ``#`` may tell Dafny's
preprocessor something even inside a comment, so it is a token of its own wherever it stands.
"""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

BOM = "\ufeff"


class Token(NamedTuple):
    """A token and where it stands in the text, in characters."""

    kind: str
    """``name``, ``number``, ``string``, ``char``, ``sign``, ``directive`` or ``other``."""
    text: str
    start: int
    end: int


_PIECES = re.compile(
    r"""
    (?P<space>[\ \t\r\n\f\v\ufeff]+)
  | (?P<line>//[^\r\n]*)
  | (?P<block>/\*)
  | (?P<string>@"(?:[^"]|"")*"|"(?:[^"\\\r\n]|\\.)*")
  | (?P<char>'(?:[^'\\\r\n]|\\u[0-9A-Fa-f]{4}|\\U\{[0-9A-Fa-f_]+\}|\\['"\\0nrt])')(?![A-Za-z0-9_?'])
  | (?P<number>0x[0-9A-Fa-f_]+|[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?![A-Za-z_?']))
  | (?P<name>[A-Za-z_?'0-9][A-Za-z0-9_?']*)
  | (?P<sign><==>|-->|==>|<==|\.\.\.|!in\b|!is\b|::|:=|:\||:-|==|!=|<=|>=|&&|\|\|
      |=>|->|~>|\.\.|\#\#|\{:|!!|[^\w\s])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"(?:^|(?<=[\r\n\f\v\x85\u2028\u2029]))[^\S\r\n]*#[^\r\n]*")


class Scan(NamedTuple):
    """The tokens of a text, and what stands between them."""

    tokens: list[Token]
    comments: list[tuple[int, int]]


def tokens(text: str) -> list[Token]:
    """The tokens of a text; what Dafny would not read is of kind ``other``."""
    return scan(text).tokens


def scan(text: str) -> Scan:
    """The tokens and comments of a text."""
    found: list[Token] = [
        Token("directive", match[0].strip(), match.start(), match.end())
        for match in _DIRECTIVE.finditer(text)
    ]
    directives = {token.start: token.end for token in found}
    comments: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        if at in directives:
            at = directives[at]
            continue
        match = _PIECES.match(text, at)
        assert match is not None
        kind, end = str(match.lastgroup), match.end()
        if kind == "block":
            end = _end_of_comment(text, at)
        if kind in ("block", "line"):
            comments.append((at, end))
        elif kind == "space":
            # a directive begins with the blanks before it
            inside = [start for start in directives if at < start < end]
            end = min(inside, default=end)
        else:
            found.append(Token(kind, match[0], at, end))
        at = end
    return Scan(sorted(found, key=lambda token: token.start), comments)


def _end_of_comment(text: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    return len(text)


class Lines:
    """Lines of a text as Dafny counts them: CR, LF and CRLF end one, nothing else does."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]

    def offset(self, line: int, character: int) -> int:
        """Where a place is in the text, in characters.

        Args:
            line: from 0.
            character: from 0, in UTF-16 units; of a byte order mark Dafny counts none.
        """
        if line >= len(self.starts):
            return len(self.text)
        at = self.starts[line] + (line == 0 and self.text.startswith(BOM))
        end = self.starts[line + 1] if line + 1 < len(self.starts) else len(self.text)
        while character > 0 and at < end:
            character -= 2 if ord(self.text[at]) > 0xFFFF else 1
            at += 1
        return at

    def line(self, offset: int) -> int:
        """The line, from 0, in which a character stands."""
        return bisect.bisect_right(self.starts, offset) - 1
