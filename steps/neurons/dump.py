"""Pre-activations of every MLP layer of a model, in one forward pass (docs/neurons.md).

Reads a model folder, its tokenizer and packed rows of tokens (``int32 [rows, context]``).
Writes a zarr v3 store:

=========  ==============================  ===========================================================
array      shape, dtype                    contents
=========  ==============================  ===========================================================
``pre``    [layers, tokens, d_mlp], fp16   pre-activations, one zarr shard per layer and token block
``up``     the same                        in gated MLPs: what the activated gate is multiplied by
``tokens`` [tokens], int32                 token ids
``keep``   [tokens], uint8                 0 where the token is excluded from correlations
=========  ==============================  ===========================================================

With ``source: model`` the store has no ``pre``: readers compute it again, rounded identically, since a
dump at the paper's scale is 37 TB. Post-activations are derived on reading with the model's own
activation function.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest, fingerprint
from steps.core.errors import UserError, require_space
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import ArrayWriter, Folder, Ledger, read_array, write_array
from steps.interp.loading import weights_digests, weights_fingerprint
from steps.interp.pre_activations import PreActivations

if TYPE_CHECKING:
    import numpy as np


logger = logging.getLogger("reprise")


CONTENTS = {
    "pre": "pre-activations of the MLP neurons",
    "up": "what the activated gate is multiplied by",
}
"""Of the arrays, by their names."""


CHUNK_BYTES = 2**20
"""Size of the parts of a block that are decoded one after the other: they stay in a core's cache."""


class Settings(BaseSettings):
    """How activations are made and kept."""

    source: Literal["dump", "model"] = Field(
        "dump", description="dump: keep activations; model: recompute them in every job"
    )
    split: Literal["train", "held_out"] = Field(
        "held_out", description="which rows of the corpus: held_out or train"
    )
    tokens: int = Field(
        100_000,
        ge=1,
        le=10**12,
        description="how many tokens, BOS included; whole rows are taken (paper: 100 million)",
    )
    exclude_bos: bool = Field(
        True,
        description="leave BOS out of correlations (paper); in rows without one, the first token of each",
    )
    exclude_tokens: list[int | str] = Field(
        ["\n"],
        description="further tokens left out of correlations, as ids or as the text of one token"
        " (paper: new line)",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float16", description="of the kept pre-activations: float16 (paper) or float32"
    )
    compute_dtype: Literal["float32", "bfloat16", "float64"] = Field(
        "float32", description="of the model: float32, bfloat16 or float64"
    )
    device: Device = Field("cpu", description="where the model runs")
    block_tokens: int = Field(
        4096,
        ge=1,
        le=2**24,
        description="tokens per block, rounded down to whole rows; blocks are what bootstraps resample",
    )
    batch_tokens: int = Field(
        4096, ge=1, le=2**24, description="tokens per forward pass, rounded down to whole rows"
    )
    codec: Literal["none", "lz4", "zstd"] = Field(
        "zstd", description="compression of kept blocks: zstd, lz4 or none"
    )
    threads: int = Field(1, ge=1, description="arithmetic threads")


def excluded_ids(tokenizer: Path, bos: int | None, settings: Settings) -> list[int]:
    """The ids of the tokens that are left out of correlations, sorted.

    A text stands for every token whose text it is, such as a new line for GPT-2's one and for the byte that
    Llama's tokenizer writes.

    Raises:
        UserError: a text that is not exactly one token, or an id outside the vocabulary.
    """
    from steps.interp.loading import load_tokenizer
    from steps.language_models.text.tokenizers import TokenTexts

    vocabulary = load_tokenizer(tokenizer)
    texts = TokenTexts(vocabulary)
    ids = {bos} if settings.exclude_bos and bos is not None else set()
    for item in settings.exclude_tokens:
        if isinstance(item, int):
            if not 0 <= item < texts.size:
                raise UserError(
                    f"neurons.dump.exclude_tokens: found id {item}, expected 0 to {texts.size - 1}"
                )
            ids.add(item)
        else:
            if item != item.encode("utf-8", "replace").decode():  # half a surrogate pair
                raise UserError(
                    f"neurons.dump.exclude_tokens: {item!r} is no text in UTF-8, expected that of one token;"
                    " give its id"
                )
            # Special tokens have no text, and some tokenizers change the text that they read.
            found = texts.tokens_of(item)
            if not found:
                found = vocabulary.encode(item, add_special_tokens=False).ids
                if len(found) != 1:
                    raise UserError(
                        f"neurons.dump.exclude_tokens: {item!r} is {len(found)} tokens, expected one;"
                        " give its id"
                    )
            ids.update(found)
    return sorted(ids)


def main(model: Path, tokenizer: Path, rows: Path, name: str, settings: Settings, out: Output) -> None:
    """Dump, or go on dumping, the activations of the model called ``name``."""
    from steps.interp.loading import skeleton

    packed = Folder(rows, "rows")
    weights = Folder(model, "language_model")
    wanted_tokenizer = Folder(tokenizer, "tokenizer").fingerprint
    for path, folder in ((rows, packed), (model, weights)):
        if folder.attributes.get("tokenizer") != wanted_tokenizer:
            raise UserError(
                f"{path}: of another tokenizer than {tokenizer}; delete it and run snakemake again"
            )
    context = packed.attributes["n_ctx"]
    available = read_array(packed, settings.split)
    wanted = -(-settings.tokens // context)
    if len(available) < wanted:
        logger.warning(
            "%s: %d tokens requested, %d available; all are taken", rows, settings.tokens, available.size
        )
    chosen = available[:wanted]
    bos = packed.attributes["bos"]
    excluded = excluded_ids(tokenizer, bos, settings)
    tokens = chosen.reshape(-1)
    keep = ~_isin(tokens, excluded)
    # What models do at BOS, where there is nothing to attend to, they do at whatever comes first.
    first = settings.exclude_bos and bos is None
    if first:
        keep[::context] = False
    if keep.sum() < 2:
        raise UserError(
            f"{rows}: {keep.sum()} of {len(tokens)} tokens are left after exclusion, need at least 2"
        )

    made_from = {
        "model": weights_fingerprint(weights),
        "tokens": fingerprint([context, _digest(tokens), wanted_tokenizer]),
        "exclude": [*excluded, "first of each row"] if first else excluded,
        "settings": settings.model_dump(mode="json", exclude={"tokens", "exclude_bos", "exclude_tokens"}),
        "code": code_digest("neurons.dump"),
    }
    ledger = Ledger(out, "activations", made_from, ("numpy", "torch", "transformers", "zarr"))
    if settings.source == "dump":
        source = PreActivations(
            model, settings.device, settings.compute_dtype, settings.dtype, settings.batch_tokens
        )
    else:  # nothing is computed here
        source = PreActivations.of(skeleton(model), settings.dtype)
    longest = getattr(source.model.config, "max_position_embeddings", context)
    if longest < context:
        raise UserError(
            f"{rows}: rows of {context} tokens, expected at most {longest}, which {model} can read;"
            " lower language_models.rows.n_ctx"
        )
    block_rows = min(max(1, settings.block_tokens // context), len(chosen))
    if settings.source == "dump":
        require_room(ledger, source, tokens.size, block_rows * context)
    write_array(ledger, "tokens", tokens, ("token",), description="token ids")
    write_array(
        ledger, "keep", keep.astype("uint8"), ("token",), description="0 where left out of correlations"
    )
    if settings.source == "dump":
        write_blocks(ledger, source, chosen, block_rows, settings.codec)
    ledger.finish(
        {
            "model": name,
            "source": settings.source,
            "layers": source.layers,
            "d_mlp": source.d_mlp,
            "n_ctx": context,
            "bos": bos,
            "block_tokens": block_rows * context,
            "dtype": settings.dtype,
            "compute_dtype": settings.compute_dtype,
            "batch_tokens": settings.batch_tokens,
            "device": settings.device,
            "activation": source.activation,
            "gated": len(source.names) > 1,
            "weights": weights_digests(weights.check("model.safetensors")),
            "kept": int(keep.sum()),
            "model_ledger": os.path.relpath(model, out.parent),
        }
    )


def require_room(ledger: Ledger, source: PreActivations, tokens: int, block: int) -> None:
    """Refuse a dump of ``tokens`` tokens, cut into ``block``, that would not fit, before anything is written.

    Raises:
        UserError: it would not fit on the disk.
    """
    import numpy as np

    there = sum(name.startswith(("pre/c/", "up/c/")) for name in ledger.files)
    values = (len(source.names) * source.layers * tokens - there * block) * source.d_mlp
    need = values * np.dtype(source.dtype).itemsize - ledger.outdated_bytes()
    require_space(ledger.folder, need, "lower neurons.dump.tokens or set neurons.dump.source to model")


def write_blocks(
    ledger: Ledger, source: PreActivations, rows: np.ndarray, block_rows: int, codec: str
) -> None:
    """Write the blocks of activations that are not there yet."""
    import numpy as np

    context = rows.shape[1]
    itemsize = np.dtype(source.dtype).itemsize
    block = block_rows * context
    chunk = _largest_divisor(block, max(1, CHUNK_BYTES // (itemsize * source.d_mlp)))
    arrays = [
        ArrayWriter(
            ledger,
            name,
            (source.layers, rows.size, source.d_mlp),
            (1, block, source.d_mlp),
            source.dtype,
            codec,
            chunk=(1, chunk, source.d_mlp),
            dims=("layer", "token", "neuron"),
            description=CONTENTS[name],
        )
        for name in source.names
    ]
    places = [(array, layer) for array in range(len(arrays)) for layer in range(source.layers)]
    blocks = range(-(-len(rows) // block_rows))
    missing = [k for k in blocks if any((layer, k, 0) not in arrays[array] for array, layer in places)]
    for k in progress(missing, len(missing), f"{ledger.folder.name}: blocks dumped"):
        kept = source(rows[k * block_rows : (k + 1) * block_rows])
        for array, layer in places:
            if (layer, k, 0) not in arrays[array]:
                arrays[array].write((layer, k, 0), kept[array][layer : layer + 1].cpu().numpy())


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def _digest(tokens: np.ndarray) -> str:
    return hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()


def _isin(tokens: np.ndarray, ids: list[int]) -> np.ndarray:
    import numpy as np

    return np.isin(tokens, ids)


if __name__ == "__main__":
    run(main)
