"""Boolean features of tokens: what explanations and vocabulary effects are tested against (section 6).

The 207 features of the paper's code are functions of the text ``s`` that one token decodes to, with ``t``
for the stripped text:

===========  =====  ==============================================================================
group        count  case and stripping
===========  =====  ==============================================================================
type         6      ``all_white_space`` of s; ``all_caps`` (more than one character), ``all_lower``,
                    ``all_alpha``, ``all_numeric`` of t; ``all_symbolic``: as coded by the authors, *any*
                    character of t that is neither letter nor digit
symbols      25     s contains the character, or one of the class; nothing is stripped
numbers      9      of t; ``number_word`` from a list; ``is_year``: 1490 < value < 2200;
                    ``is_lt_31``: value at most 31; digits are ASCII decimals
pronouns     19     lists, t in lower case
starts       11     of s; vowel and consonant of t in lower case
suffixes     49     t in lower case ends with it
prefixes     80     54 prefixes and 26 letters: t in lower case begins with it
word_groups  8      lists; each entry of the file says how
===========  =====  ==============================================================================

Lists stand in ``word_lists.json``, each with ``match`` (whole, prefix, suffix or substring of t), ``strip``
and ``lower``. Not counted there: ``small_norm`` (embedding norm below 0.52). Special tokens have no text:
no feature holds for them (in the paper's code they have the features of their names).
There are also unigram groups, topic sets and the BOS token.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.stores import read_json
from steps.language_models.text.tokenizers import token_texts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from tokenizers import Tokenizer


WORD_LISTS = Path(__file__).with_name("word_lists.json")
"""The lists that are shipped; rules declare the file as input and pass its path."""


COUNTS = {
    "type": 6,
    "symbols": 25,
    "numbers": 9,
    "pronouns": 19,
    "starts": 11,
    "suffixes": 49,
    "prefixes": 80,
    "word_groups": 8,
}
"""How many token features there are of each group."""


SYMBOLS = ".,!?;:-/\\_^'\")(][}{"


SMALL_NORM = 0.52
"""Norm of the embedding, preprocessed as all weights (``interp.weights``), below which a token has the
feature ``small_norm``."""


Predicate = Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class Features:
    """Boolean labels of the tokens of a vocabulary.

    Attributes:
        names: one for each feature, different from each other.
        groups: the group of each.
        matrix: ``bool [vocabulary, features]``.
    """

    names: list[str]
    groups: list[str]
    matrix: np.ndarray

    def chosen(self, which: np.ndarray) -> Features:
        """The features of a mask."""
        names, groups = (
            [item for item, use in zip(items, which, strict=True) if use]
            for items in (self.names, self.groups)
        )
        return Features(names, groups, self.matrix[:, which])

    def without_empty(self) -> Features:
        """Those that hold for at least one token."""
        return self.chosen(self.matrix.sum(axis=0) > 0)


def join(parts: Sequence[Features]) -> Features:
    """Features of the same vocabulary side by side."""
    import numpy as np

    names = [name for part in parts for name in part.names]
    groups = [group for part in parts for group in part.groups]
    return Features(names, groups, np.concatenate([part.matrix for part in parts], axis=1))


def read_word_lists(path: Path = WORD_LISTS) -> dict[str, Any]:
    """The word lists: ``token_features``, ``syntax_words`` and ``syntax_suffixes``.

    Raises:
        UserError: not a file of that layout.
    """
    lists = read_json(path)
    keys = ("token_features", "syntax_words", "syntax_suffixes")
    if not isinstance(lists, dict) or set(lists) != set(keys):
        raise UserError(f"{path}: expected word lists, an object with the keys {', '.join(keys)}")
    return lists


def token_predicates(lists: Mapping[str, Any]) -> list[tuple[str, str, Predicate]]:
    """Group, name and function of all 207 token features, in the order of the module's docstring."""
    found: list[tuple[str, str, Predicate]] = [
        *(("type", name, function) for name, function in _TYPE.items()),
        *(("symbols", f"contains_{sign}", _contains(sign)) for sign in SYMBOLS),
        *(("symbols", name, _contains(signs)) for name, signs in _SIGN_CLASSES.items()),
        ("symbols", "double_dollar", lambda s: "$$" in s),
        *(("numbers", name, function) for name, function in _NUMBERS.items()),
        *(("starts", name, function) for name, function in _STARTS.items()),
        *((entry["group"], entry["name"], _listed(entry)) for entry in lists["token_features"]),
    ]
    order = list(COUNTS)
    return sorted(found, key=lambda feature: order.index(feature[0]))


def token_features(
    texts: Sequence[str], lists: Mapping[str, Any], embedding_norms: np.ndarray | None = None
) -> Features:
    """The token features of a vocabulary, all-false ones left out.

    Args:
        texts: of each token (``token_texts`` of :mod:`steps.language_models.text.tokenizers`).
        lists: :func:`read_word_lists`.
        embedding_norms: ``[vocabulary]``; gives the feature ``small_norm`` too.
    """
    import numpy as np

    predicates = token_predicates(lists)
    matrix = np.array([[function(text) for _, _, function in predicates] for text in texts], bool)
    found = Features([name for _, name, _ in predicates], [group for group, _, _ in predicates], matrix)
    if embedding_norms is not None:
        found = join([found, small_norm(embedding_norms)])
    return found.without_empty()


def vocabulary_features(tokenizer: Tokenizer, embedding: torch.Tensor) -> Features:
    """The token features of a model's vocabulary, ``small_norm`` too.

    Args:
        tokenizer: the tokenizer.
        embedding: the model's, preprocessed, ``[vocabulary, d_model]``.
    """
    texts = token_texts(tokenizer, len(embedding))
    return token_features(texts, read_word_lists(), embedding.norm(dim=1).cpu().numpy())


def small_norm(embedding_norms: np.ndarray) -> Features:
    """Tokens whose embedding is short, which training barely moved."""
    return Features(["small_norm"], ["small_norm"], (embedding_norms < SMALL_NORM)[:, None])


def unigram_key(text: str) -> str:
    """What unites the variants of a word: the stripped text in lower case; blanks stay as they are.

    The paper's groups put all blanks into one, which is the feature ``all_white_space``. Parts of
    characters, which decode to U+FFFD, belong to no group.
    """
    return "" if "\ufffd" in text else text.strip().lower() or text


def unigram_features(
    texts: Sequence[str], counts: np.ndarray, minimum_variants: int = 4, minimum_count: float = 3000
) -> Features:
    """Groups of tokens that are one word up to case and blanks.

    Args:
        texts: of each token.
        counts: ``[vocabulary]``, how often each token occurs.
        minimum_variants: tokens of a group, whether they occur or not (paper: more than 3).
        minimum_count: occurrences of the group (paper: more than 3000 of 10 million).
    """
    import numpy as np

    members: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        if key := unigram_key(text):
            members.setdefault(key, []).append(number)
    kept = {
        key: numbers
        for key, numbers in members.items()
        if len(numbers) >= minimum_variants and counts[numbers].sum() >= max(1, minimum_count)
    }
    matrix = np.zeros((len(texts), len(kept)), bool)
    for column, numbers in enumerate(kept.values()):
        matrix[numbers, column] = True
    return Features([f"unigram {key!r}" for key in kept], ["unigram"] * len(kept), matrix)


def single_token(name: str, number: int, vocabulary: int) -> Features:
    """One token by its id, such as BOS."""
    import numpy as np

    return Features([name], [name], (np.arange(vocabulary) == number)[:, None])


def topics_by_svd(
    embedding: np.ndarray, texts: Sequence[str], counts: np.ndarray, topics: int, tokens: int
) -> Features:
    """Topic sets learned from an embedding: the tokens at both ends of its first singular directions.

    Tokens that never occur (they lie where training left them), blanks and parts of characters do not count.

    Args:
        embedding: ``[vocabulary, d_model]``.
        texts: of each token.
        counts: how often each token occurs.
        topics: sets, two for each direction.
        tokens: in each set.
    """
    import numpy as np

    readable = [bool(text.strip()) and "\ufffd" not in text for text in texts]
    usable = np.flatnonzero(np.array(readable) & (np.asarray(counts) > 0))
    centred = embedding[usable].astype(np.float64)
    centred -= centred.mean(0)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    directions = min(-(-topics // 2), left.shape[1])
    matrix = np.zeros((len(texts), 2 * directions), bool)
    names: list[str] = []
    for k in range(directions):
        direction = left[:, k] * np.sign(left[np.abs(left[:, k]).argmax(), k])  # SVD leaves the sign open
        for end, order in (("+", np.argsort(-direction)), ("-", np.argsort(direction))):
            chosen = usable[order[:tokens]]
            matrix[chosen, len(names)] = True
            names.append(f"topic {k}{end} ({' '.join(texts[number].strip() for number in chosen[:3])})")
    return Features(names[:topics], ["topic"] * min(topics, len(names)), matrix[:, :topics])


def topics_from_file(path: Path, texts: Sequence[str]) -> Features:
    """Topic sets of a user: JSON, ``{topic: [text, ...]}``; a text names the tokens that read so, stripped.

    Raises:
        UserError: a file of another layout.
    """
    import numpy as np

    try:
        sets = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read as topic sets ({reason}), expected JSON, an object of lists of texts;"
            " fix it or name another file in neurons.explain.topics"
        ) from None
    if not isinstance(sets, dict) or not all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in sets.values()
    ):
        raise UserError(
            f"{path}: expected topic sets as JSON, an object of lists of texts; fix it or name another"
            " file in neurons.explain.topics"
        )
    for name in sets:
        if re.search("[\ud800-\udfff]", name):  # tables and pages cannot hold it
            raise UserError(f"{path}: the topic {name!r} has half a character in its name; rename it")
    stripped = [text.strip() for text in texts]
    wanted = [{word.strip() for word in words} - {""} for words in sets.values()]
    matrix = np.array([[text in words for text in stripped] for words in wanted], bool)
    matrix = matrix.T.reshape(len(texts), len(sets))
    return Features([f"topic {name}" for name in sets], ["topic"] * len(sets), matrix).without_empty()


def _contains(signs: str) -> Predicate:
    return lambda s: any(sign in s for sign in signs)


def _listed(entry: Mapping[str, Any]) -> Predicate:
    """The feature of an entry of the word lists."""
    words, match = entry["words"], entry["match"]
    whole = frozenset(words)
    test: Predicate = {
        "whole": lambda t: t in whole,
        "prefix": lambda t: t.startswith(tuple(words)),
        "suffix": lambda t: t.endswith(tuple(words)),
        "substring": lambda t: any(word in t for word in words),
    }[match]
    strip, lower = entry["strip"], entry["lower"]

    def holds(s: str) -> bool:
        t = s.strip() if strip else s
        return test(t.lower() if lower else t)

    return holds


def _number(s: str) -> int | None:
    """The value of a text of ASCII digits."""
    t = s.strip()
    return int(t) if re.fullmatch(r"[0-9]{1,18}", t) else None


def _digits(count: int) -> Predicate:
    return lambda s: _number(s) is not None and len(s.strip()) == count


def _at_start(test: Predicate, space: bool | None = None) -> Predicate:
    """Whether the first character, after a leading space where there is one, passes ``test``.

    Args:
        test: of the character.
        space: whether there must be a leading space; None where it does not matter.
    """

    def holds(s: str) -> bool:
        begins = s.startswith(" ")
        first = s[1:2] if begins else s[:1]
        return (space is None or begins == space) and bool(first) and test(first)

    return holds


_TYPE: dict[str, Predicate] = {
    "all_white_space": lambda s: s.isspace(),
    "all_caps": lambda s: s.strip().isupper() and len(s.strip()) > 1,
    "all_lower": lambda s: s.strip().islower(),
    "all_alpha": lambda s: s.strip().isalpha(),
    "all_numeric": lambda s: s.strip().isdecimal(),
    "all_symbolic": lambda s: any(not sign.isalnum() for sign in s.strip()),
}


_SIGN_CLASSES = {
    "closing_punc": ")]}>",
    "opening_punc": "([{<",
    "math_symbol": "+-*/=<>",
    "currency": "$€£¥",
    "dollar": "$",
}


_NUMBERS: dict[str, Predicate] = {
    "contains_digit": lambda s: any(sign.isdigit() for sign in s),
    "all_digits": lambda s: s.strip().isdigit(),
    "is_year": lambda s: 1490 < (_number(s) or 0) < 2200,
    "one_digit": _digits(1),
    "two_digit": _digits(2),
    "three_digit": _digits(3),
    "four_digit": _digits(4),
    "is_lt_31": lambda s: 0 <= (32 if (value := _number(s)) is None else value) <= 31,
}


_STARTS: dict[str, Predicate] = {
    "start_vowel": lambda s: s.strip()[:1].lower() in tuple("aeiou"),
    "start_consonant": lambda s: s.strip()[:1].isalpha() and s.strip()[:1].lower() not in "aeiou",
    "start_no_space": lambda s: bool(s) and not s.startswith(" "),
    "start_no_space_and_letter": _at_start(str.isalpha, space=False),
    "start_no_space_and_digit": _at_start(str.isdecimal, space=False),
    "start_digit": lambda s: s.strip()[:1].isdecimal(),
    "start_space": lambda s: s.startswith(" "),
    "start_space_and_letter": _at_start(str.isalpha, space=True),
    "start_cap": _at_start(str.isupper),
    "start_no_space_and_cap": _at_start(str.isupper, space=False),
    "start_no_space_and_lower": _at_start(str.islower, space=False),
}
