"""Tokenizers: read from files of any layout, compared with one another, their BOS token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.stores import read_json
from steps.interp.loading import read_tokenizer, tokenizer_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def check_tokenizer(folder: Path, shared: Tokenizer) -> None:
    """Compare the tokenizer that a model brings, where it does, with the shared one.

    Raises:
        UserError: they differ.
    """
    files = {path.name for path in tokenizer_files(folder)}
    brings = "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files
    if brings and not same(read(folder), shared):
        raise UserError(
            f"{folder}: brings another tokenizer than the study's; models that are compared must share"
            " one tokenizer: list models that do"
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
    named = [token for token in named_bos(folder) if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in named])
    return tokenizer


def named_bos(folder: Path) -> list[str]:
    """What the files of a tokenizer call the BOS token, the file that has most to say first."""
    found = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            content = read_json(folder / name, user_supplied=True)
            token = content.get("bos_token") if isinstance(content, dict) else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found.append(token)
    if (folder / "vocab.json").is_file() and not found:
        found.append("<|endoftext|>")  # what GPT-2's own files leave unsaid
    return found


def bos_of(tokenizer: Tokenizer, wanted: str | None, named: list[str], where: str) -> str:
    """The BOS token.

    Args:
        tokenizer: the tokenizer.
        wanted: the one in the settings, if any.
        named: those that its files name.
        where: the tokenizer's place, for the message.

    Raises:
        UserError: there is none, or it is not in the vocabulary.
    """
    token = wanted or next(iter(named), None)
    if token is None:
        raise UserError(
            f"{where}: names no BOS token; set language_models.tokenizer.bos_token to the token that"
            " the models saw first in every text"
        )
    if tokenizer.token_to_id(token) is None:
        raise UserError(
            f"{where}: the BOS token {token!r} is not in its vocabulary; set"
            " language_models.tokenizer.bos_token to one that is"
        )
    return token


def same(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers turn every text into the same ids."""
    return _essence(a) == _essence(b)


def _essence(tokenizer: Tokenizer) -> dict[str, Any]:
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model.pop("merges", [])]
    return {
        "model": {key: value for key, value in model.items() if value is not None},
        "merges": merges,
        "vocabulary": tokenizer.get_vocab(),
        "added": [item["content"] for item in content["added_tokens"] if not item["special"]],
        "normalizer": content["normalizer"],
        "pre_tokenizer": content["pre_tokenizer"],
    }


def size(tokenizer: Tokenizer) -> int:
    """The size of the vocabulary: the largest id plus one."""
    return 1 + max(tokenizer.get_vocab().values())
