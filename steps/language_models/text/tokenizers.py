"""Tokenizers: read from files of any layout, compared by what they do, their tokens' texts, their BOS."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steps.core.digest import fingerprint
from steps.core.errors import UserError
from steps.core.stores import read_json
from steps.interp.loading import read_tokenizer, tokenizer_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def check_tokenizer(folder: Path, shared: Tokenizer) -> None:
    """Compare the tokenizer in a model's folder, if there is one, with the shared one.

    Raises:
        UserError: they differ.
    """
    files = {path.name for path in tokenizer_files(folder)}
    has_one = "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files
    differs = difference(read(folder), shared) if has_one else None
    if differs is not None:
        raise UserError(
            f"{folder}: has another tokenizer than the study's ({differs}); models that are compared must"
            " share one tokenizer: list models that do"
        )


def read(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder, without truncation or padding.

    Raises:
        UserError: the folder holds none, or it cannot be read.
    """
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder / "tokenizer.json")
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.is_file() and merges.is_file()):
        raise UserError(
            f"{folder}: found no tokenizer, expected tokenizer.json, or vocab.json with merges.txt;"
            " set language_models.tokenizer.path or .hub to where the models' tokenizer is"
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{vocabulary}: not the vocabulary of a BPE ({error}); replace it") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = [token for token in named_bos(folder) if token and tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in named])
    return tokenizer


def named_bos(folder: Path) -> list[str | None]:
    """What the files of a tokenizer call the BOS token, the file that has most to say first.

    None where a file says that there is none, as Qwen's do; empty where they leave it unsaid.
    """
    found: list[str | None] = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            content = read_json(folder / name, user_supplied=True)
            token = content.get("bos_token", False) if isinstance(content, dict) else False
            token = token.get("content") if isinstance(token, dict) else token
            if token is None or isinstance(token, str):
                found.append(token)
    if (folder / "vocab.json").is_file() and not found:
        found.append("<|endoftext|>")  # what GPT-2's own files leave unsaid
    return sorted(found, key=lambda token: token is None)


def bos_of(
    tokenizer: Tokenizer, wanted: str | Literal[False] | None, named: list[str | None], where: str
) -> str | None:
    """The BOS token; None where there is none.

    Args:
        tokenizer: the tokenizer.
        wanted: the one in the settings, if any; False: none.
        named: what its files say, see :func:`named_bos`.
        where: the tokenizer's place, for the message.

    Raises:
        UserError: nobody says which, or it is not in the vocabulary.
    """
    if wanted is False:
        return None
    if wanted is None and not named:
        raise UserError(
            f"{where}: does not say which token is BOS; set language_models.tokenizer.bos_token to the token"
            " that the models saw first in every text, or to false if they saw none"
        )
    token = wanted or named[0]
    if token is not None and tokenizer.token_to_id(token) is None:
        raise UserError(
            f"{where}: the BOS token {token!r} is not in its vocabulary; set"
            " language_models.tokenizer.bos_token to one that is, or to false for rows without BOS"
        )
    return token


def difference(a: Tokenizer, b: Tokenizer) -> str | None:
    """How two tokenizers differ in what they do to text, in a few words; None where they do not.

    Files of one tokenizer are spelled in many ways: transformers writes other defaults than it reads, and
    splits text by other components with the same result. So what is compared is the vocabulary, the model's
    merges and those of its options that can matter, tokens that are matched in text, and the ids of many
    texts (:func:`probing_texts`). What the files say beyond that (post-processor, decoder, truncation,
    special tokens that only one has, such as one for padding) decides no id of a text.
    """
    first, second = _Behaviour(a), _Behaviour(b)
    for token in sorted(first.vocabulary.keys() | second.vocabulary.keys()):
        found = [behaviour.vocabulary.get(token) for behaviour in (first, second)]
        if found[0] != found[1] and not (None in found and token in first.special | second.special):
            return f"{token!r} is token {found[0]} in one and {found[1]} in the other"
    if first.rules != second.rules:
        return "their merges or the options of their models differ"
    texts = probing_texts(first.texts)
    pairs = zip(texts, first.ids(texts), second.ids(texts), strict=True)
    differing = [(text, one, other) for text, one, other in pairs if one != other]
    if not differing:
        return None
    return "{!r} is {} in one and {} in the other".format(*min(differing, key=lambda each: len(each[0])))


def behaviour_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of what a tokenizer does, as :func:`difference` understands it, and of its tokens' texts."""
    own = _Behaviour(tokenizer)
    texts = probing_texts(own.texts)
    shown = [own.texts.readable(number) for number in range(size(tokenizer))]
    return fingerprint([sorted(own.vocabulary.items()), own.rules, own.ids(texts), shown])


class _Behaviour:
    """What decides a tokenizer's ids, apart from how its file spells it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers import Tokenizer

        content = json.loads(tokenizer.to_str())
        model = content["model"]
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.special = {item["content"] for item in content["added_tokens"] if item["special"]}
        self.texts = TokenTexts(tokenizer)
        merges = [m.split(" ") if isinstance(m, str) else list(m) for m in model.get("merges", ())]
        pieces = model["vocab"] if isinstance(model.get("vocab"), list) else None  # Unigram: with scores
        # Absent, null, "", false and a dropout of 0 are one default, as different versions write it.
        options = {
            key: value
            for key, value in model.items()
            if key not in ("merges", "vocab") and not (value is None or value is False or value == "")
        }
        if not options.get("dropout"):
            options.pop("dropout", None)
        if self._has_all_bytes(content):  # then no text is unknown
            for key in ("unk_token", "fuse_unk"):
                options.pop(key, None)
        ignored = {"special"} | ({"normalized"} if content["normalizer"] is None else set())
        ordinary = [
            {key: value for key, value in item.items() if key not in ignored}
            for item in content["added_tokens"]
            if not item["special"]
        ]
        self.rules = [merges, pieces, options, ordinary]
        if model.get("dropout"):
            model["dropout"] = None  # its draws are no behaviour
        self._tokenizer = Tokenizer.from_str(json.dumps(content))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as rows are made: text that spells one stays text

    def _has_all_bytes(self, content: dict[str, Any]) -> bool:
        if content["model"].get("byte_fallback"):
            return all(f"<0x{byte:02X}>" in self.vocabulary for byte in range(256))
        components = _components(content["pre_tokenizer"], "pretokenizers")
        return "ByteLevel" in components and all(sign in self.vocabulary for sign in byte_signs())

    def ids(self, texts: list[str]) -> list[list[int]]:
        """The ids of each of ``texts``, as rows are made."""
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


def _components(content: dict[str, Any] | None, key: str) -> list[str]:
    """The types of a pre-tokenizer or the like, those of a sequence one by one."""
    if content is None:
        return []
    inner = content.get(key)
    return [content["type"]] if inner is None else [t for part in inner for t in _components(part, key)]


_WORDS = "It's the 2nd of MARCH 2024: I'LL re-read naïve café №Ⅷ, fi 100,000.50% (~x_1y) at http://a.b/?c=d#e"


def probing_texts(texts: TokenTexts) -> list[str]:
    """Texts on which tokenizers of one vocabulary part ways if they normalise or split differently.

    Every token's text by itself and inside another; every character up to U+33FF, a few at a time, and
    some beyond; runs of blanks, digits and line ends of all lengths up to 17, at starts and ends and inside;
    composed and decomposed letters, wide and joined ones, contractions, signs that stand for bytes or
    blanks, and the names of special tokens.
    """
    found = ["", _WORDS, _WORDS.lower(), _WORDS.upper(), f" {_WORDS} ", f"\n{_WORDS}\n"]
    for sign in (" ", "\n", "\t", "\r\n", " \n", "\n ", "7", "a", "A", ".", "é", "日", "\u3000", "\u2581"):
        for count in range(1, 18):
            run = sign * count
            found += [run, f"{run}a", f"a{run}", f"a{run}b", f"a {run} b", f"a\n{run}b"]
    found += [chr(start) for start in range(0x180)]
    for start in range(0, 0x3400, 8):
        run = "".join(map(chr, range(start, start + 8)))
        found += [run, " ".join(run), f"a{run}1"]
    found += [
        "e\u0301 é ﬁ Ａ１ ㎏ ①",
        "각 각 \u1100\u1161",
        "👩‍👩‍👧 🏳️‍🌈",
        "漢字かな交じり文",
        "שלום עולם",
        "\u202e\ufeff\uffff\U0010ffff",
    ]
    found += [
        "Ġthe Ċ",
        "\u2581the \u2581",
        "<0x0A> <0x20>",
        "##ing the##",
        "the</w> </w>",
        "don't DON'T don’t",
        "_a __b",
    ]
    found += [f"a{name}b {name} c" for name in sorted(texts.special_names)]
    words = [text for number in range(texts.size) if (text := texts.text(number))]
    return found + words + [f"x{text}y {text}" for text in words]


class TokenTexts:
    """What each token of a tokenizer stands for in running text.

    Decoding one id does not say so: at the start of a text, decoders of SentencePiece's kind leave a blank
    out, so that runs of 2, 3 and 8 blanks decode to 1, 2 and 7 and one blank to nothing; parts of characters
    decode to U+FFFD, whichever part they are. So a token is decoded after itself, and where that is no whole
    character its name says the bytes: one sign for each (GPT-2 and its like), or ``<0xE2>``.

    Attributes:
        size: of the vocabulary, the largest id plus one.
        special_names: of the special tokens, which stand for no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """The texts of ``tokenizer``, which is not changed."""
        from tokenizers import Tokenizer, decoders

        content = json.loads(tokenizer.to_str())
        self.size = size(tokenizer)
        self._names = {number: token for token, number in tokenizer.get_vocab().items()}
        added = tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        self.special_names = {added[number].content for number in self._special}
        # These are found in the text as it is, or as it was normalised, and never split.
        blank = _sign_for_blanks(content["normalizer"])
        self._literal = {
            number: token.content.replace(blank, " ") if token.normalized and blank else token.content
            for number, token in added.items()
        }
        if tokenizer.decoder is None:
            components = _components(content["pre_tokenizer"], "pretokenizers")
            tokenizer = Tokenizer.from_str(tokenizer.to_str())
            tokenizer.decoder = (
                decoders.ByteLevel()
                if "ByteLevel" in components
                else decoders.Sequence(
                    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
                )
            )
        self._tokenizer = tokenizer

    def bytes(self, number: int) -> bytes:
        """The bytes of a token; none of special tokens and of ids that are no token's."""
        name = self._names.get(number)
        if name is None or number in self._special:
            return b""
        if number in self._literal:
            return self._literal[number].encode()
        alone, twice = (self._tokenizer.decode([number] * n, skip_special_tokens=False) for n in (1, 2))
        if "\ufffd" not in twice and twice.startswith(alone):
            return str(twice[len(alone) :]).encode()
        if re.fullmatch("<0x[0-9A-F]{2}>", name):
            return bytes([int(name[3:5], 16)])
        signs = byte_signs()
        if set(name) <= signs.keys():
            return bytes(signs[sign] for sign in name)
        return str(twice[len(twice) // 2 :]).encode()

    def text(self, number: int) -> str:
        """The text of a token, U+FFFD for parts of characters; none of special tokens."""
        return self.bytes(number).decode("utf-8", "replace")

    def readable(self, number: int) -> str:
        """The text of a token to be looked at: special ones by name, bytes of no character as ``<0xE2>``."""
        if number in self._special:
            return self._names[number]
        text = self.bytes(number).decode("utf-8", "surrogateescape")
        return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)

    def tokens_of(self, text: str) -> list[int]:
        """The ids of the tokens that stand for exactly this text, in order; a byte may have two."""
        wanted = text.encode()
        return [number for number in range(self.size) if wanted and self.bytes(number) == wanted]


def token_texts(tokenizer: Tokenizer, rows: int | None = None) -> list[str]:
    """The text of each token id; nothing for special tokens and ids without a token.

    Args:
        tokenizer: the tokenizer.
        rows: of the embedding, where they are more than tokens.
    """
    texts = TokenTexts(tokenizer)
    return [texts.text(number) for number in range(rows or texts.size)]


def _sign_for_blanks(normalizer: dict[str, Any] | None) -> str | None:
    """What a normaliser writes for blanks, if anything."""
    if normalizer is None:
        return None
    if normalizer["type"] == "Replace" and normalizer["pattern"].get("String") == " ":
        return str(normalizer["content"])
    return next(filter(None, map(_sign_for_blanks, normalizer.get("normalizers", ()))), None)


@functools.cache
def byte_signs() -> dict[str, int]:
    """The sign that stands for each byte in the names of byte-level tokens.

    Printable characters of Latin-1 stand for themselves, the other bytes in turn for U+0100 and on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def size(tokenizer: Tokenizer) -> int:
    """The size of the vocabulary: the largest id plus one."""
    return 1 + max(tokenizer.get_vocab().values())
