"""Pre-activations of every MLP layer of a model, in one forward pass (docs/neurons.md).

Reads a model folder, its tokenizer and packed rows of tokens (``int32 [rows, context]``, BOS first).
Writes a zarr v3 store:

=========  ==============================  ===========================================================
array      shape, dtype                    contents
=========  ==============================  ===========================================================
``pre``    [layers, tokens, width], fp16   pre-activations, one zarr shard per layer and token block
``up``     the same                        in gated MLPs: what the activated gate is multiplied by
``tokens`` [tokens], int32                 token ids
``keep``   [tokens], uint8                 0 where the token is excluded from correlations
=========  ==============================  ===========================================================

With ``source: model`` the store has no ``pre``: readers compute it again, rounded identically, since a
dump at the paper's scale is 37 TB. Post-activations are derived on reading with the model's own
activation function.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.digest import code_digest, fingerprint
from steps.core.errors import UserError, require_space
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import ArrayWriter, Folder, Ledger, read_array, write_array

if TYPE_CHECKING:
    import numpy as np
    import torch

logger = logging.getLogger("reprise")

CHUNK_BYTES = 2**20
"""Size of the parts of a block that are decoded one after the other: they stay in a core's cache."""


class Settings(BaseSettings):
    """How activations are made and kept."""

    source: Literal["dump", "model"] = Field("dump", description="keep activations, or compute them anew")
    split: Literal["train", "held_out"] = Field("held_out", description="which rows of the corpus")
    tokens: int = Field(
        100_000, ge=1, le=10**12, description="how many tokens, BOS included; whole rows are taken"
    )
    exclude_bos: bool = Field(True, description="leave BOS out of correlations")
    exclude_tokens: list[int | str] = Field(
        ["\n"], description="further tokens left out of correlations, as ids or as the text of one token"
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="of the kept pre-activations")
    compute_dtype: Literal["float32", "bfloat16", "float64"] = Field("float32", description="of the model")
    device: str = Field("cpu", description="where the model runs")
    block_tokens: int = Field(
        4096, ge=1, le=2**24, description="tokens per block, rounded down to whole rows"
    )
    batch_tokens: int = Field(
        4096, ge=1, le=2**24, description="tokens per forward pass, rounded down to whole rows"
    )
    codec: Literal["none", "lz4", "zstd"] = Field("zstd", description="compression of the kept blocks")
    threads: int = Field(1, ge=1, description="arithmetic threads")


class _EnoughLayers(Exception):  # noqa: N818 (no error)
    """Ends a forward pass whose later layers nobody asked for."""


class PreActivations:
    """A model that turns rows of tokens into pre-activations, rounded as they are kept."""

    def __init__(
        self, ledger: Path, device: str, compute_dtype: str, dtype: str, batch_tokens: int = 4096
    ) -> None:
        """Load the model of a ``language_model`` ledger and listen to its MLP layers."""
        from steps.language_models.models import load

        model = load(ledger, device=device, dtype=compute_dtype)
        self.fingerprint = weights_fingerprint(Folder(ledger, "language_model"))
        self._prepare(model, dtype, batch_tokens, str(ledger))

    def _prepare(self, model: Any, dtype: str, batch_tokens: int, name: str) -> None:
        import torch

        from steps.language_models.architectures import architecture

        parts = architecture(model)
        self.model = model.base_model  # without the unembedding
        self.layers = parts.layers
        self.width = parts.width
        self.activation = parts.activation
        self.names = ("pre", "up") if parts.gated else ("pre",)
        self.dtype = dtype
        self._name = name
        self.device = next(model.parameters()).device
        self._batch_tokens = batch_tokens
        self._out: list[torch.Tensor] = []
        self._at = slice(0, 0)
        self._wanted = self.layers
        self._largest = torch.zeros((len(self.names), self.layers), device=self.device)
        for layer, block in enumerate(parts.blocks):
            for number, module in enumerate((block.pre, block.up)):
                if module is not None:
                    module.register_forward_hook(self._keep(number, layer))
            block.down.register_forward_pre_hook(self._end(layer))

    @classmethod
    def of(cls, model: Any, dtype: str = "float16", batch_tokens: int = 4096) -> PreActivations:
        """The same for a model in memory."""
        self = cls.__new__(cls)
        self._prepare(model, dtype, batch_tokens, type(model).__name__)
        return self

    def _keep(self, number: int, layer: int) -> Any:
        import torch

        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            low, high = output.aminmax()
            here = torch.maximum(-low, high).float()
            self._largest[number, layer] = torch.maximum(self._largest[number, layer], here)
            self._out[number][layer, self._at] = output.reshape(-1, self.width)

        return hook

    def _end(self, layer: int) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            if layer + 1 == self._wanted < self.layers:
                raise _EnoughLayers

        return hook

    def __call__(self, rows: np.ndarray, layers: int | None = None) -> list[torch.Tensor]:
        """What is kept of ``rows`` (``int [rows, context]``): ``[layers, rows * context, width]`` each.

        On the model's device. In the order of ``names``. Of the first ``layers`` (all by default), after
        which the model stops.

        Raises:
            UserError: a value is beyond what is kept, or not a number.
        """
        import torch

        context = rows.shape[1]
        self._wanted = self.layers if layers is None else layers
        shape, dtype = (self._wanted, rows.size, self.width), getattr(torch, self.dtype)
        self._out = [torch.empty(shape, dtype=dtype, device=self.device) for _ in self.names]
        self._largest.zero_()
        batch = max(1, self._batch_tokens // context)
        ids = torch.from_numpy(rows).long().to(self.device)
        with torch.inference_mode():
            for start in range(0, len(rows), batch):
                part = ids[start : start + batch]
                self._at = slice(start * context, start * context + part.numel())
                with contextlib.suppress(_EnoughLayers):
                    self.model(part, use_cache=False)
        self._require_finite()
        out, self._out = self._out, []
        return out

    def _require_finite(self) -> None:
        limit = 65504.0 if self.dtype == "float16" else 3.4e38
        for name, largest in zip(self.names, self._largest.tolist(), strict=True):
            for layer, value in enumerate(largest):
                if not value <= limit:
                    what = "pre-activation" if name == "pre" else "factor of the gate"
                    remedy = (
                        "set neurons.dump.dtype to float32"
                        if value < float("inf")
                        else "its weights are damaged or overflow; use another model"
                    )
                    raise UserError(
                        f"{self._name}: a {what} of {value:g} in layer {layer} is beyond {self.dtype};"
                        f" {remedy}"
                    )


def weights_fingerprint(model: Folder) -> str:
    """What identifies a model: the hashes of its configuration and weights."""
    return fingerprint({name: model.files[name]["sha256"] for name in ("config.json", "model.safetensors")})


def weights_digests(weights: Path) -> list[str]:
    """Digests of a model's weights rounded to float16 and to bfloat16.

    Models share one of them where one is the other saved in fewer bits (not where one has the bits of
    float16 and one those of bfloat16), whatever their configuration says.
    """
    import torch
    from safetensors import safe_open

    digests = {dtype: hashlib.sha256() for dtype in (torch.float16, torch.bfloat16)}
    with safe_open(weights, framework="pt") as file:
        for name in sorted(file.keys()):
            values = file.get_tensor(name)
            for dtype, digest in digests.items():
                digest.update(f"{name} {list(values.shape)}".encode())
                digest.update(values.to(dtype).view(torch.int16).numpy())
    return [f"{str(dtype).removeprefix('torch.')} {digest.hexdigest()}" for dtype, digest in digests.items()]


def excluded_ids(tokenizer: Path, bos: int, settings: Settings) -> list[int]:
    """The ids of the tokens that are left out of correlations, sorted.

    Raises:
        UserError: a text that is not exactly one token, or an id outside the vocabulary.
    """
    from steps.language_models.models import load_tokenizer

    vocabulary = load_tokenizer(tokenizer)
    size = vocabulary.get_vocab_size()
    ids = {bos} if settings.exclude_bos else set()
    for item in settings.exclude_tokens:
        if isinstance(item, int):
            if not 0 <= item < size:
                raise UserError(f"neurons.dump.exclude_tokens: found id {item}, expected 0 to {size - 1}")
            ids.add(item)
        else:
            if item != item.encode("utf-8", "replace").decode():  # half a surrogate pair
                raise UserError(
                    f"neurons.dump.exclude_tokens: {item!r} is no text in UTF-8, expected that of one token;"
                    " give its id"
                )
            encoded = vocabulary.encode(item, add_special_tokens=False).ids
            if len(encoded) != 1:
                raise UserError(
                    f"neurons.dump.exclude_tokens: {item!r} is {len(encoded)} tokens, expected one;"
                    " give its id"
                )
            ids.add(encoded[0])
    return sorted(ids)


def main(model: Path, tokenizer: Path, rows: Path, name: str, settings: Settings, out: Output) -> None:
    """Dump, or go on dumping, the activations of the model called ``name``."""
    from steps.language_models.models import skeleton

    packed = Folder(rows, "rows")
    weights = Folder(model, "language_model")
    wanted_tokenizer = Folder(tokenizer, "tokenizer").fingerprint
    for path, folder in ((rows, packed), (model, weights)):
        if folder.attributes.get("tokenizer") != wanted_tokenizer:
            raise UserError(f"{path}: of another tokenizer than {tokenizer}; delete it and build it again")
    context = packed.attributes["context"]
    available = read_array(packed, settings.split)
    wanted = -(-settings.tokens // context)
    if len(available) < wanted:
        logger.warning(
            "%s: %d tokens asked for, %d there; all are taken", rows, settings.tokens, available.size
        )
    chosen = available[:wanted]
    exclude = excluded_ids(tokenizer, packed.attributes["bos"], settings)
    tokens = chosen.reshape(-1)
    keep = ~_isin(tokens, exclude)
    if keep.sum() < 2:
        raise UserError(
            f"{rows}: {keep.sum()} of {len(tokens)} tokens are left after exclusion, need at least 2"
        )

    made_from = {
        "model": weights_fingerprint(weights),
        "tokens": fingerprint([context, _digest(tokens), wanted_tokenizer]),
        "exclude": exclude,
        "settings": settings.model_dump(mode="json", exclude={"tokens", "exclude_bos", "exclude_tokens"}),
        "code": code_digest("neurons.dump"),
    }
    ledger = Ledger(out, "activations", made_from)
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
            " lower language_models.rows.context"
        )
    block_rows = min(max(1, settings.block_tokens // context), len(chosen))
    if settings.source == "dump":
        require_room(ledger, source, tokens.size, block_rows * context)
    write_array(ledger, "tokens", tokens)
    write_array(ledger, "keep", keep.astype("uint8"))
    if settings.source == "dump":
        write_blocks(ledger, source, chosen, block_rows, settings.codec)
    ledger.finish(
        {
            "model": name,
            "source": settings.source,
            "layers": source.layers,
            "width": source.width,
            "context": context,
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
    values = (len(source.names) * source.layers * tokens - there * block) * source.width
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
    chunk = _largest_divisor(block, max(1, CHUNK_BYTES // (itemsize * source.width)))
    arrays = [
        ArrayWriter(
            ledger,
            name,
            (source.layers, rows.size, source.width),
            (1, block, source.width),
            source.dtype,
            codec,
            chunk=(1, chunk, source.width),
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
