"""Rows of tokens, packed for one corpus and one tokenizer (docs/language_models.md).

Reads the documents (parquet with ``source``, ``split``, ``text``) and the tokenizer's folder. The
documents of each source are tokenised and concatenated, without anything between them unless the
setting ``separator`` names a token (the paper's documents abut); the stream is cut into rows of
``n_ctx`` - 1 tokens, BOS is put in front of each, and the ragged tail is dropped. Where the tokenizer has
no BOS (Qwen), a row is ``n_ctx`` tokens of text. The rows of all sources are then shuffled with a seeded
permutation.

Writes a zarr store of kind ``rows``:

===================  =================  ==============================================
array                shape, dtype       contents
===================  =================  ==============================================
``train``            [rows, n_ctx]      token ids, int32, BOS first where there is one
``held_out``         [rows, n_ctx]      the same of the held-out documents
``train_source``     [rows], uint16     index of the row's label in ``sources``
``held_out_source``  [rows], uint16     the same
===================  =================  ==============================================

Attributes: ``sources`` (labels, sorted), ``n_ctx``, ``bos`` (id; null: rows have none), ``vocabulary``
(size), ``tokenizer`` (fingerprint of its folder). Memory: four bytes per token, and one batch of text.
"""

from __future__ import annotations

import array
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from steps.core.digest import code_digest, file_digest
from steps.core.digest import seed as derive
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import ArrayWriter, Folder, Ledger, write_array
from steps.interp.loading import load_tokenizer
from steps.language_models.text import documents

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer


logger = logging.getLogger("reprise")


BATCH = 2_000_000
"""Characters tokenised at once: a tokeniser needs about 100 bytes per token while it works."""


BLOCK = 1 << 20
"""Tokens per block of the store."""


MOST_SOURCES = 1 << 16


class Settings(BaseSettings):
    """How text becomes rows."""

    renamed: ClassVar[dict[str, str]] = {"context": "n_ctx"}

    n_ctx: int = Field(64, ge=2, le=1 << 20, description="tokens per row, BOS included (paper: 512)")
    separator: str | None = Field(
        None, min_length=1, description="token put between documents; null: none, documents abut (paper)"
    )
    seed: int = Field(0, ge=0, description="of the shuffle")
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="threads; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )


Streams = dict[str, dict[str, "array.array[int]"]]
"""Token ids by split and source."""


def tokenise(corpus: Iterable[documents.Document], tokenizer: Tokenizer, separator: int | None) -> Streams:
    """Tokenise and concatenate documents.

    Text that spells a special token stays text.

    Args:
        corpus: the documents.
        tokenizer: the tokenizer.
        separator: id of the token between documents, if any.
    """
    tokenizer.encode_special_tokens = True
    streams: Streams = {split: {} for split in documents.SPLITS}
    for batch in _batches(corpus):
        pieces = [piece for document in batch for piece in _pieces(document.text, tokenizer)]
        encoded = iter(tokenizer.encode_batch_fast([text for text, _ in pieces], add_special_tokens=False))
        ends = iter(end for _, end in pieces)
        for document in batch:
            stream = streams[document.split].setdefault(document.source, array.array("i"))
            if separator is not None and stream:
                stream.append(separator)
            for encoding in encoded:
                stream.extend(encoding.ids)
                if next(ends):
                    break
    return streams


def _batches(corpus: Iterable[documents.Document]) -> Iterator[list[documents.Document]]:
    batch: list[documents.Document] = []
    characters = 0
    for document in corpus:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(text: str, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """A text in pieces of bounded length that encode to the same ids, and whether each is the last.

    GPT-2's byte-level splitting takes a run of blanks as one piece, but for a last space before a word,
    which goes with the word, and but for the blank before a word without one. So a cut changes nothing
    after a line end if " word" follows, or if it stands alone between words. With other tokenizers texts
    stay whole.
    """
    start = 0
    if len(text) > BATCH and _splits_like_gpt2(tokenizer):
        for match in re.finditer(r"(?<=\n)(?= \S)|(?<=\S\n)(?=\S)", text):
            if match.start() - start >= BATCH:
                yield text[start : match.start()], False
                start = match.start()
    yield text[start:], True


def _splits_like_gpt2(tokenizer: Tokenizer) -> bool:
    from tokenizers.pre_tokenizers import ByteLevel

    splitter = tokenizer.pre_tokenizer
    return (
        isinstance(splitter, ByteLevel)
        and splitter.use_regex
        and not splitter.add_prefix_space
        and tokenizer.normalizer is None
    )


def cut(stream: array.array[int], length: int) -> np.ndarray:
    """A stream of token ids as ``int32 [rows, length]``, without its ragged tail."""
    import numpy as np

    tokens = np.frombuffer(stream, dtype=np.int32) if stream else np.empty(0, np.int32)
    rows = len(tokens) // length
    return tokens[: rows * length].reshape(rows, length)


def write_rows(
    ledger: Ledger, split: str, parts: list[np.ndarray], bos: int | None, order: np.ndarray
) -> None:
    """Write the rows of a split and their sources, block by block.

    Args:
        ledger: of the store.
        split: train or held_out.
        parts: the rows of each source without BOS, ``int32 [rows, context - 1]``, or ``[rows, context]``
            where rows have none.
        bos: id of the BOS token, or None.
        order: for each row of the store, its place in the concatenation of ``parts``.
    """
    import numpy as np

    before = 0 if bos is None else 1
    context = parts[0].shape[1] + before
    starts = np.cumsum([0, *(len(part) for part in parts)])
    sources = np.searchsorted(starts, order, side="right") - 1
    block = min(len(order), max(1, BLOCK // context))
    row = f"{split}_row"
    writer = ArrayWriter(
        ledger,
        split,
        (len(order), context),
        (block, context),
        "int32",
        dims=(row, "position"),
        description="token ids" if bos is None else "token ids, BOS first",
    )
    for number, start in enumerate(range(0, len(order), block)):
        places, owners = order[start : start + block], sources[start : start + block]
        rows = np.full((len(places), context), 0 if bos is None else bos, dtype=np.int32)
        for owner in np.unique(owners):
            mine = owners == owner
            rows[mine, before:] = parts[owner][places[mine] - starts[owner]]
        writer.write((number, 0), rows)
    labels = sources.astype(np.uint16)
    write_array(ledger, f"{split}_source", labels, (row,), description="index of the label in sources")


def separator_id(tokenizer: Tokenizer, separator: str | None) -> int | None:
    """The id of the token between documents.

    Raises:
        UserError: it is not one token of the vocabulary.
    """
    if separator is None:
        return None
    token: int | None = tokenizer.token_to_id(separator)
    if token is None:
        raise UserError(
            f"language_models.rows.separator: {separator!r} is not a token of the vocabulary; name one"
            " that is, or null"
        )
    return token


def main(corpus: Path, tokenizer: Path, settings: Settings, out: Output) -> None:
    """Pack the documents of ``corpus`` into rows."""
    import numpy as np

    os.environ["TOKENIZERS_PARALLELISM"] = "true" if settings.threads > 1 else "false"
    folder = Folder(tokenizer, "tokenizer")
    bos: int | None = folder.attributes["bos"]
    model = load_tokenizer(tokenizer)
    streams = tokenise(documents.read(corpus), model, separator_id(model, settings.separator))
    sources = sorted({source for side in streams.values() for source in side})
    if len(sources) > MOST_SOURCES:
        raise UserError(f"{corpus}: found {len(sources)} labels, expected at most {MOST_SOURCES}")
    made_from = {
        "corpus": file_digest(corpus),
        "tokenizer": folder.fingerprint,
        "settings": settings.model_dump(exclude={"threads"}),
        "code": code_digest("language_models.rows"),
    }
    length = settings.n_ctx - (bos is not None)
    parts = {
        split: [cut(side.get(source, array.array("i")), length) for source in sources]
        for split, side in streams.items()
    }
    for split, side in parts.items():
        if sum(map(len, side)) == 0:
            tokens = sum(map(len, streams[split].values()))
            raise UserError(
                f"{corpus}: its {split} documents hold {tokens} tokens of {len(streams[split])} sources,"
                f" too few for one row of {settings.n_ctx} tokens of one source; add text, or lower"
                " language_models.rows.n_ctx"
            )
    ledger = Ledger(out, "rows", made_from, ("numpy", "tokenizers", "zarr"))
    for split, side in parts.items():
        count = sum(map(len, side))
        generator = np.random.default_rng(derive(settings.seed, "language_models.rows", split))
        write_rows(ledger, split, side, bos, generator.permutation(count))
        logger.info("%s: %d rows of %d tokens", split, count, settings.n_ctx)
    ledger.finish(
        {
            "sources": sources,
            "n_ctx": settings.n_ctx,
            "bos": bos,
            "vocabulary": folder.attributes["vocabulary"],
            "tokenizer": folder.fingerprint,
            "rows": {split: sum(map(len, side)) for split, side in parts.items()},
        }
    )


if __name__ == "__main__":
    run(main)
