"""Labels of tokens that depend on the text around them: words, Python's tokens, spaCy (section 6).

A row of tokens is put together to its text (BOS has none); a tagger names units in it, from one character
to another; each model token gets the labels of the unit that it touches: exactly one -> its labels,
several -> ``several``, none -> ``none``, as in the paper.

Without spaCy, words (letters, with an apostrophe inside) get the labels of closed-class lists and, where
they are in none, of suffix rules (``word_lists.json``; a suffix needs a word of some length). Rows of
source code get the classes of Python's own ``tokenize``, line by line, since rows begin and end anywhere.
With it: part of speech, dependency, morphology, kind of entity, stop word, first and last of a sentence.
"""

from __future__ import annotations

import bisect
import importlib
import io
import itertools
import keyword
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


Unit = tuple[int, int, tuple[str, ...]]
"""First character, the one after the last, and labels."""


Tagger = Callable[[Iterable[str]], Iterator[list[Unit]]]
"""From the texts of rows to the units of each."""


NONE, SEVERAL = -1, -2


MORPHOLOGY = ("Number", "Person", "PronType", "Tense", "VerbForm", "Aspect")


ROLES = ("whole word", "first piece", "later piece", "other")
"""What a token can be of a word."""


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


_CLASSES = {tokenize.OP: "operator", tokenize.NUMBER: "number", tokenize.COMMENT: "comment"}


def align(
    units: Sequence[Unit], starts: Sequence[int], number: Callable[[tuple[str, ...]], int]
) -> list[int]:
    """For each token the number of the one unit it touches, or ``NONE`` or ``SEVERAL``.

    Args:
        units: in the order of the text, not overlapping.
        starts: first character of each token; a token ends where the next begins.
        number: of the labels of a unit.
    """
    found, owner = [NONE] * len(starts), [NONE] * len(starts)
    for place, (begin, end, labels) in enumerate(units):
        first = bisect.bisect_right(starts, begin) - 1
        for token in range(first, bisect.bisect_left(starts, end, lo=first)):
            if owner[token] in (NONE, place):
                found[token], owner[token] = number(labels), place
            else:
                found[token] = SEVERAL
    return found


def labels(
    rows: np.ndarray, texts: Sequence[str], tagger: Tagger, prefix: str
) -> tuple[list[str], np.ndarray]:
    """Names and ``bool [tokens, labels]`` of what a tagger says of the tokens of ``rows [rows, context]``."""
    import numpy as np

    numbers: dict[tuple[str, ...], int] = {}
    pieces = [[texts[token] for token in row] for row in rows.tolist()]
    codes = np.empty(rows.size, np.int64)
    tagged = tagger("".join(row) for row in pieces)
    for place, (row, units) in enumerate(zip(pieces, tagged, strict=True)):
        starts = [0, *itertools.accumulate(map(len, row[:-1]))]
        codes[place * len(row) : (place + 1) * len(row)] = align(
            units, starts, lambda found: numbers.setdefault(found, len(numbers))
        )
    names = sorted({name for found in numbers for name in found})
    matrix = np.zeros((len(numbers) + 2, len(names) + 2), bool)  # the last two rows: several, none
    for found, number in numbers.items():
        matrix[number, [names.index(name) for name in found]] = True
    matrix[SEVERAL, -2] = matrix[NONE, -1] = True
    return [f"{prefix} {name}" for name in [*names, "several", "none"]], matrix[codes]


def word_tagger(lists: Mapping[str, Any]) -> Tagger:
    """Words with their closed classes, or else what their suffix suggests."""
    classes: dict[str, tuple[str, ...]] = {}
    for name, words in lists["syntax_words"].items():
        for word in words:
            classes[word] = (*classes.get(word, ()), name)

    def classify(word: str) -> tuple[str, ...]:
        if word not in classes:
            if word.endswith("n't"):
                classes[word] = ("auxiliary", "negation")
            else:
                found = {
                    name
                    for name, suffix, length in lists["syntax_suffixes"]
                    if word.endswith(suffix) and len(word) >= length
                }
                classes[word] = tuple(sorted(found)) or ("other",)
        return classes[word]

    def tag(rows: Iterable[str]) -> Iterator[list[Unit]]:
        for text in rows:
            yield [(*match.span(), classify(match[0].lower())) for match in _WORD.finditer(text)]

    return tag


def python_tagger(code: Sequence[bool]) -> Tagger:
    """Python's own classes in the rows that are source code; nothing in the others."""

    def tag(rows: Iterable[str]) -> Iterator[list[Unit]]:
        for text, is_code in zip(rows, code, strict=True):
            yield list(python_units(text)) if is_code else []

    return tag


def python_units(text: str) -> Iterator[Unit]:
    """Python's tokens of each line of a text; of a line that is none, those before what is wrong."""
    for match in re.finditer(r"[^\n]+", text):
        line = match[0].lstrip()
        start = match.end() - len(line)
        try:
            for token in tokenize.generate_tokens(io.StringIO(line).readline):
                kind = _CLASSES.get(token.type)
                if token.type == tokenize.NAME:
                    kind = "keyword" if keyword.iskeyword(token.string) else "name"
                elif "STRING" in tokenize.tok_name[token.type]:
                    kind = "string"
                if kind is not None and token.start[0] == token.end[0] == 1 and token.string:
                    yield start + token.start[1], start + token.end[1], (kind,)
        except (tokenize.TokenError, SyntaxError):  # an IndentationError too
            continue


def spacy_tagger(model: str) -> Tagger:
    """What spaCy says of each word.

    Raises:
        UserError: spaCy or its model is not installed.
    """
    try:
        pipeline = importlib.import_module("spacy").load(model)
    except (ImportError, OSError):
        raise UserError(
            f"neurons.explain.syntax: spaCy or its model {model!r} is not installed; install the extra"
            f" (pip install -e '.[spacy]') and the model (python -m spacy download {model}),"
            " or set it to rules"
        ) from None

    def tag(rows: Iterable[str]) -> Iterator[list[Unit]]:
        for document in pipeline.pipe(rows):
            yield [
                (word.idx, word.idx + len(word.text), tuple(_spacy_labels(word)))
                for word in document
                if not word.is_space
            ]

    return tag


def _spacy_labels(word: Any) -> Iterator[str]:
    yield f"pos {word.pos_}"
    yield f"dependency {word.dep_}"
    for name in MORPHOLOGY:
        yield from (f"{name} {value}" for value in word.morph.get(name))
    if word.ent_type_:
        yield f"entity {word.ent_type_}"
    if word.is_stop:
        yield "stop word"
    if word.is_sent_start:
        yield "sentence begin"
    if word.is_sent_end:
        yield "sentence end"


def word_roles(rows: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """For each token of ``rows [rows, context]`` its number in ``ROLES``.

    Later piece: begins with a letter right after a letter. First piece: a letter follows right after it.
    The paper asks for no letter before a later piece; in code words often follow other signs directly.
    """
    import numpy as np

    begins = np.array([text[:1].isalpha() for text in texts])[rows]
    ends = np.array([text[-1:].isalpha() for text in texts])[rows]
    alphabetic = np.array([text.strip().isalpha() for text in texts])[rows]
    after, before = np.zeros_like(begins), np.zeros_like(begins)
    after[:, 1:] = begins[:, 1:] & ends[:, :-1]
    before[:, :-1] = ends[:, :-1] & begins[:, 1:]
    found: np.ndarray = np.select([~alphabetic, after, before], [3, 2, 1], 0)
    return found.reshape(-1)
