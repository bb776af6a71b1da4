"""The tokenizer that all models of a study share: trained on the corpus, or the user's own.

Trained: a byte-level BPE on the documents of the train side (parquet with ``split`` and ``text``), so
that any text can be encoded and comes back byte by byte. Its vocabulary holds the BOS token, the 256
bytes and merges; words with and without a leading space, and capitals, stay apart, so that unigram
neurons have something to find (docs/language_models.md).

The user's own: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``, of a local folder or the hub.

Writes a folder in Hugging Face format: ``tokenizer.json``, ``tokenizer_config.json`` and the ledger,
whose attributes are ``bos`` (id) and ``bos_token`` (text), both null where there is none, ``vocabulary``
(size) and ``source``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from steps.core.digest import file_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import NO_INFLUENCE
from steps.core.sources import Source, apart, fetch
from steps.core.stores import Ledger, write_json
from steps.interp.loading import TOKENIZER, tokenizer_files
from steps.language_models.text import documents
from steps.language_models.text.tokenizers import behaviour_digest, bos_of, named_bos, read, size

if TYPE_CHECKING:
    from tokenizers import Tokenizer


logger = logging.getLogger("reprise")


BOS = "<|bos|>"


BYTES = 256


class Settings(Source):
    """Which tokenizer; trained where neither a path nor a hub id is given."""

    path: str | None = Field(
        None,
        min_length=1,
        description="local folder of an existing tokenizer; null: trained, or that of the first listed model",
    )
    vocabulary: int = Field(
        512, ge=BYTES + 2, le=1_000_000, description="tokens of a trained one: BOS, 256 bytes and merges"
    )
    bos_token: Annotated[str, Field(min_length=1)] | Literal[False] | None = Field(
        None, description=f"the BOS token; null: {BOS} if trained, else as its files say; false: none"
    )
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="threads; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )

    @property
    def source(self) -> Source:
        """The place it comes from."""
        return Source(path=self.path, hub=self.hub, revision=self.revision)

    @property
    def user_supplied(self) -> bool:
        """Whether it is the user's own, not a trained one."""
        return self.path is not None or self.hub is not None


def train(texts: Iterator[str], vocabulary: int, bos_token: str | None) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the result depends on the texts but not on their order.

    Args:
        texts: the documents.
        vocabulary: number of tokens, fewer where the texts hold fewer different pairs.
        bos_token: text of the BOS token, which becomes id 0; None: without one.

    Raises:
        UserError: the BOS token is one of the letters that stand for bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if bos_token in alphabet:
        raise UserError(
            f"language_models.tokenizer.bos_token: found {bos_token!r}, which stands for a byte of ordinary"
            f" text; choose a longer one, such as {BOS}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[] if bos_token is None else [bos_token],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(out: Path, tokenizer: Tokenizer, bos_token: str | None, source: dict[str, Any]) -> None:
    """Write the folder.

    Its fingerprint depends on what the tokenizer does alone: not on what made it, from where, or on how its
    file spells it.
    """
    made_from = {"tokenizer": behaviour_digest(tokenizer), "bos_token": bos_token}
    ledger = Ledger(out, "tokenizer", made_from, contents_named=True)
    ledger.place("tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos_token,
        "clean_up_tokenization_spaces": False,
    }
    write_json(ledger.place("tokenizer_config.json"), config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        ledger.record(name)
    ledger.finish(
        {
            "bos": None if bos_token is None else tokenizer.token_to_id(bos_token),
            "bos_token": bos_token,
            "vocabulary": size(tokenizer),
            "source": source,
        }
    )


def main(settings: Settings, out: Output, corpus: list[Path] = []) -> None:  # noqa: B006
    """Train the tokenizer on ``corpus`` (one table of documents), or copy the user's."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if settings.threads > 1 else "false"
    if settings.user_supplied:
        folder = apart(fetch(settings.source, TOKENIZER), out)
        tokenizer = read(folder)
        bos_token = bos_of(tokenizer, settings.bos_token, named_bos(folder), str(folder))
        files = {path.name: file_digest(path) for path in tokenizer_files(folder)}
        source: dict[str, Any] = {**settings.source.model_dump(exclude_none=True), "files": files}
    else:
        if len(corpus) != 1:
            raise UserError(f"--corpus: found {len(corpus)} tables, expected one to train a tokenizer on")
        texts = (document.text for document in documents.read(corpus[0], "train"))
        bos_token = None if settings.bos_token is False else settings.bos_token or BOS
        tokenizer = train(texts, settings.vocabulary, bos_token)
        source = {"trained_on": file_digest(corpus[0])}
        if size(tokenizer) < settings.vocabulary:
            logger.warning("the corpus yields %d tokens only", size(tokenizer))
    write(out, tokenizer, bos_token, source)
    if bos_token is None:
        logger.info("tokenizer with %d tokens and no BOS: rows of tokens begin with text", size(tokenizer))
    else:
        logger.info("tokenizer with %d tokens, BOS %r", size(tokenizer), bos_token)


if __name__ == "__main__":
    run(main)
