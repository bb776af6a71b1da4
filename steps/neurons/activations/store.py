"""Reading the pre-activations that ``neurons.dump`` described, from its store or from the model.

Every later step of the chapter takes activations through :class:`Activations`, which hides whether
they lie on disk (``source: dump``) or are computed again (``source: model``, or a dump restored by
DVC, which leaves the blocks out): both give the same rounded values, in the same blocks. A *block* is
a run of whole rows of tokens, global to the study, so however the work is cut, sums are formed over the
same tokens in the same order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steps.core.devices import torch_device
from steps.core.errors import UserError
from steps.core.stores import ArrayReader, Folder, read_array
from steps.interp.architectures import activation_function
from steps.interp.forward import Forward

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import torch

    from steps.interp.pre_activations import PreActivations


def open_model(ledger: Path, source: Activations, device: str, dtype: str) -> Forward:
    """The model of ``ledger``, from which the activations ``source`` were made.

    Raises:
        UserError: they were made from another model.
    """
    from steps.interp.loading import load, weights_fingerprint

    if weights_fingerprint(Folder(ledger, "language_model")) != source.store.made_from["model"]:
        raise UserError(
            f"--model: {ledger} is not the model of {source.store.path}; give the one it was made from"
        )
    return Forward(load(ledger, device=device, dtype=dtype))


def first_rows(source: Activations, rows: int) -> np.ndarray:
    """The first ``rows`` rows of tokens ``[rows, context]`` that activations were made from."""
    whole = source.tokens.reshape(-1, source.n_ctx)
    return whole[:rows]


logger = logging.getLogger("reprise")


Precision = Literal["float32", "float64", "float16", "bfloat16"]
"""Of the shifted post-activations that are multiplied; totals are float64 in every case.

With the 16-bit ones (for accelerators) post-activations are computed and products accumulated in
float32, so a correlation is that of the rounded values: each differs by a share of at most 2**-11
(float16) or 2**-8 (bfloat16) from the shifted value, hence the correlation by at most 2 * share *
k_a * k_b, k being a neuron's root mean square over its standard deviation (1 where the mean is 0)."""


Arithmetic = Literal["float32", "float64"]
"""In which post-activations are computed and what is no product is formed."""


def arithmetic(precision: Precision) -> Arithmetic:
    """What is computed with where products have this precision."""
    return "float64" if precision == "float64" else "float32"


PILOT_TOKENS = 256
"""How many tokens give the pilot value that is subtracted before summing."""


PILOT_PLACES = 8
"""From how many places of the text they are: neurons that fire all through one text of many are common."""


Stored = tuple["np.ndarray", ...]
"""Pre-activations ``[tokens, d_mlp]``; in gated MLPs also what the activated gate is multiplied by."""


LANES = 64
"""A multiple of how many numbers a vector register holds, and of how many are worked on at once."""


LOOKED_UP = 2**16
"""How many post-activations are looked up at once, which bounds the memory of their indices."""


READ_TOKENS = 2048
"""How many tokens are read at once, which bounds the memory of conversions."""


def post_activations(activation: str, pre: np.ndarray, up: np.ndarray | None = None) -> np.ndarray:
    """Post-activations of a few stored values, float32; see :class:`PostActivations` for many."""
    import torch

    post: np.ndarray = activation_function(activation)(torch.from_numpy(pre.astype("float32"))).numpy()
    return post if up is None else post * up


class Activations:
    """The MLP pre-activations of one model over one set of tokens.

    Attributes:
        name: the model's name in the study.
        layers: number of MLP layers.
        d_mlp: neurons per layer.
        neurons: ``layers * d_mlp``; neuron ``n`` is number ``n % d_mlp`` of layer ``n // d_mlp``.
        n_ctx: tokens per row.
        bos: id of the BOS token, the first of each row; None where rows have none.
        tokens: ``int32 [rows * n_ctx]``, the token ids.
        keep: ``bool [rows * n_ctx]``, false where the token is excluded from correlations.
        blocks: number of blocks; block ``k`` is ``block_slice(k)`` of the tokens.
        gated: whether a neuron's value is ``act(pre) * up`` instead of ``act(pre)``.
        depth: how many layers a model computes of a block, where one does: all, until a reader that needs
            the first ones only sets it.
    """

    def __init__(self, ledger: Path) -> None:
        """Open the activations that ``ledger`` describes.

        Raises:
            UserError: a file is missing, truncated or altered.
        """
        self.store = Folder(ledger, "activations", optional=("pre", "up"))
        facts = self.store.attributes
        self.name: str = facts["model"]
        self.layers: int = facts["layers"]
        self.d_mlp: int = facts["d_mlp"]
        self.neurons = self.layers * self.d_mlp
        self.n_ctx: int = facts["n_ctx"]
        self.bos: int | None = facts["bos"]
        self.block_tokens: int = facts["block_tokens"]
        self.dtype: str = facts["dtype"]
        self.activation: str = facts["activation"]
        self.gated: bool = facts["gated"]
        self.depth = self.layers
        self.tokens: np.ndarray = read_array(self.store, "tokens")
        self.keep: np.ndarray = read_array(self.store, "keep").astype(bool)
        self.blocks = -(-len(self.tokens) // self.block_tokens)
        kept = facts["source"] == "dump" and not self.store.absent
        if self.store.absent:
            logger.info("%s: its blocks are not here (DVC leaves them out): computed again", ledger)
        names = ("pre", "up") if self.gated else ("pre",)
        self._arrays = [ArrayReader(self.store, name) for name in names] if kept else None
        self._model: PreActivations | None = None
        self._computed: tuple[int, list[torch.Tensor]] | None = None
        self._row: tuple[int, list[torch.Tensor]] | None = None

    @property
    def kept(self) -> int:
        """Number of tokens that are not excluded."""
        return int(self.keep.sum())

    @property
    def most_kept(self) -> int:
        """Number of tokens that are not excluded, in the block that has most of them."""
        return max((int(self.keep[self.block_slice(k)].sum()) for k in range(self.blocks)), default=0)

    def block_slice(self, block: int) -> slice:
        """The tokens of a block."""
        start = block * self.block_tokens
        return slice(start, min(start + self.block_tokens, len(self.tokens)))

    def require_origin(self, path: Path, fingerprint: Any) -> None:
        """Refuse a file that says it was made from activations of another fingerprint.

        Raises:
            UserError: the fingerprint is not that of these activations.
        """
        if fingerprint != self.store.fingerprint:
            raise UserError(
                f"{path}: not made from {self.store.path} as it is now; delete it and run snakemake again"
            )

    def stored(self, layer: int, tokens: slice) -> Stored:
        """What is kept of one layer's neurons at ``tokens``, which lie within one block."""
        import numpy as np

        parts = []
        for where, stored in self.pieces(layer, tokens.start // self.block_tokens, tokens.start):
            inside = slice(max(0, tokens.start - where.start), tokens.stop - where.start)
            parts.append([values[inside] for values in stored])
            if where.stop >= tokens.stop:
                break
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def pre(self, layer: int, tokens: slice) -> np.ndarray:
        """Stored pre-activations ``[tokens, d_mlp]`` of one layer, within one block."""
        return self.stored(layer, tokens)[0]

    @property
    def stored_here(self) -> bool:
        """Whether values are read from a store; a model computes them otherwise."""
        return self._arrays is not None

    def excerpt(self, layer: int, tokens: slice) -> Stored:
        """What is kept of one layer's neurons at ``tokens``, to be shown.

        Where a model computes it, they lie within one row, and that row alone passes through it, not its
        whole block: last bits may then differ from :meth:`stored`, whose values are summed. The last row
        is kept, for other layers and tokens.
        """
        if self.stored_here:
            return self.stored(layer, tokens)
        start = tokens.start // self.n_ctx * self.n_ctx
        if self._row is None or self._row[0] != start:
            self._row = (start, self._network()(self.tokens[None, start : start + self.n_ctx]))
        return tuple(
            values[layer, tokens.start - start : tokens.stop - start].cpu().numpy() for values in self._row[1]
        )

    def pieces(self, layer: int, block: int, start: int = 0) -> Iterator[tuple[slice, Stored]]:
        """A block's tokens part by part, with what is kept of one layer's neurons there.

        The parts before token ``start`` are skipped.
        """
        whole = self.block_slice(block)
        step = self._arrays[0].chunk[1] if self._arrays is not None else READ_TOKENS
        skipped = max(0, start - whole.start) // step
        begin = whole.start + skipped * step
        if self._arrays is not None:
            chunks = zip(
                *(array.pieces(layer, block, 0, first=skipped) for array in self._arrays), strict=True
            )
            parts: Iterable[Stored] = (tuple(chunk[0] for chunk in some) for some in chunks)
        else:
            computed = [values[layer].cpu().numpy() for values in self._compute(block, layer)]
            parts = (
                tuple(values[at : at + step] for values in computed)
                for at in range(skipped * step, len(computed[0]), step)
            )
        for part in parts:
            yield slice(begin, begin + len(part[0])), part
            begin += len(part[0])

    def on_device(self, layer: int, block: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        """What is kept of one layer's neurons in a block, on ``device``.

        Where a model on that device computes it, nothing passes through the host.
        """
        import torch

        if self._arrays is None:
            return tuple(values[layer].to(device) for values in self._compute(block, layer))
        kept = self.stored(layer, self.block_slice(block))
        return tuple(torch.from_numpy(values).to(device) for values in kept)

    def _compute(self, block: int, layer: int) -> list[torch.Tensor]:
        """What is kept of the first ``depth`` layers, up to ``layer`` at least, in a block.

        ``[layers, tokens, d_mlp]`` each, on the model's device.
        """
        if self._computed is not None and self._computed[0] == block and layer < len(self._computed[1][0]):
            return self._computed[1]
        rows = self.tokens[self.block_slice(block)].reshape(-1, self.n_ctx)
        self._computed = None  # its memory serves the next block
        self._computed = (block, self._network()(rows, max(self.depth, layer + 1)))
        return self._computed[1]

    def _network(self) -> PreActivations:
        """The model itself, loaded once."""
        from steps.interp.pre_activations import PreActivations

        if self._model is None:
            facts = self.store.attributes
            ledger = (self.store.folder / facts["model_ledger"]).resolve()
            self._model = PreActivations(
                ledger, facts["device"], facts["compute_dtype"], self.dtype, facts["batch_tokens"]
            )
            if self._model.fingerprint != self.store.made_from["model"]:
                raise UserError(f"{ledger}: the model changed after {self.store.path}; rebuild the latter")
        return self._model


def open_all(ledgers: list[Path]) -> dict[str, Activations]:
    """The activations of several models by name.

    Raises:
        UserError: there are none, or a model is there twice.
    """
    sources: dict[str, Activations] = {}
    for ledger in ledgers:
        source = Activations(ledger)
        if source.name in sources:
            raise UserError(
                f"{sources[source.name].store.path} and {ledger}: both of model {source.name!r};"
                " give every model once"
            )
        sources[source.name] = source
    if not sources:
        raise UserError("--activations: found no ledger, expected that of every model")
    return sources


Seen = Callable[[slice, slice, Any, Any], None]
"""Sees neurons (columns), rows of the block's result, the stored pre-activations of all tokens of the
part, and the post-activations of its kept tokens, not shifted: numpy arrays, or tensors where they lie
on an accelerator."""


class PostActivations:
    """Post-activations of kept tokens minus their pilot value, block by block.

    The shift keeps sums of products exact where a neuron's mean is large compared with its spread. It is the
    median over ``PILOT_TOKENS`` kept tokens from all over the set, whatever part a job works on. A median,
    because one stretch unlike the rest would move a mean away by many times a rare neuron's spread, and
    because it is itself one of the values: their differences then keep the few digits of float16, while
    sums of differences from an arbitrary number are all rounded the same way (4e-6 of a correlation where
    the mean is 100 times the spread, instead of 4e-7).
    """

    def __init__(
        self,
        source: Activations,
        precision: Precision,
        neurons: slice | None = None,
        pilot: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        """Prepare reading ``neurons`` (all by default) of ``source``, as ``precision``, on ``device``.

        ``pilot`` are their pilot values (float64), where they were read before.

        Raises:
            UserError: this machine has no such device.
        """
        import numpy as np
        import torch

        self.source = source
        self.neurons = neurons or slice(0, source.neurons)
        self.count = self.neurons.stop - self.neurons.start
        self.device = torch_device(device)
        self._dtype = np.dtype(arithmetic(precision))
        self._function = activation_function(source.activation)
        self._table: np.ndarray | None = None
        if source.dtype == "float16" and self.device.type == "cpu":
            # There are only 65,536 float16 numbers: looking the function up is exact, and three
            # times faster than the function.
            halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(self._dtype)
            self._table = self._function(torch.from_numpy(halves)).numpy()
        # Rows an odd number of 16 numbers apart: where they are a power of 2 apart, products take 8 %
        # longer, since all rows of a column compete for the same places in the cache.
        stride = 16 * (-(-self.count // 16) | 1)
        buffer = torch.empty((source.most_kept, stride), dtype=getattr(torch, precision), device=self.device)
        self._buffer = buffer[:, : self.count]
        self.pilot = self._pilot() if pilot is None else pilot
        self._shift = torch.from_numpy(self.pilot.astype(self._dtype)).to(self.device)

    def _pilot(self) -> np.ndarray:
        import numpy as np

        kept = np.flatnonzero(self.source.keep)
        starts = len(kept) * np.arange(PILOT_PLACES) // PILOT_PLACES
        chosen = np.unique(np.concatenate([kept[s : s + PILOT_TOKENS // PILOT_PLACES] for s in starts]))
        apart = (np.diff(chosen) > PILOT_TOKENS) | (np.diff(chosen // self.source.block_tokens) > 0)
        sample = np.empty((len(chosen), self.count), self._dtype)
        end = 0
        for rows in np.split(chosen, np.flatnonzero(apart) + 1):
            begin, end = end, end + len(rows)
            for layer, inside, columns in self._layers():
                stored = self.source.stored(layer, slice(rows[0], rows[-1] + 1))
                sample[begin:end, columns] = self.activate(*(part[rows - rows[0], inside] for part in stored))
        middle = (len(sample) - 1) // 2
        sample.partition(middle, axis=0)
        return sample[middle].astype(np.float64)

    def _layers(self) -> Iterator[tuple[int, slice, slice]]:
        """Each layer with the neurons of it that are read, and the columns of the result they fill."""
        d_mlp = self.source.d_mlp
        for layer in range(self.neurons.start // d_mlp, (self.neurons.stop - 1) // d_mlp + 1):
            start = max(self.neurons.start, layer * d_mlp)
            stop = min(self.neurons.stop, (layer + 1) * d_mlp)
            inside = slice(start - layer * d_mlp, stop - layer * d_mlp)
            yield layer, inside, slice(start - self.neurons.start, stop - self.neurons.start)

    def activate(self, pre: np.ndarray, up: np.ndarray | None = None) -> np.ndarray:
        """Post-activations of stored values, not shifted, as this reader computes them."""
        import numpy as np
        import torch

        if self.device.type != "cpu":
            stored = (pre,) if up is None else (pre, up)
            return self._activate(*(torch.from_numpy(part).to(self.device) for part in stored)).cpu().numpy()
        if self._table is None:
            # Whole vector registers: what is left over would go through other code, whose last digit
            # differs, and a neuron that never varies would seem to.
            step = LANES * torch.get_num_threads()
            values = np.zeros(-(-pre.size // step) * step, self._dtype)
            values[: pre.size] = pre.reshape(-1)
            post = self._function(torch.from_numpy(values)).numpy()[: pre.size].reshape(pre.shape)
        else:
            post = np.empty(pre.shape, self._dtype)
            step = max(1, LOOKED_UP // pre.shape[1])  # ``take`` makes 8 bytes of each index
            for start in range(0, len(pre), step):
                bits = np.ascontiguousarray(pre[start : start + step]).view(np.uint16)
                np.take(self._table, bits, out=post[start : start + step], mode="clip")
        if up is not None:
            post *= up
        return post

    def _activate(self, pre: torch.Tensor, up: torch.Tensor | None = None) -> torch.Tensor:
        import torch

        post = self._function(pre.to(torch.float64 if self._dtype == "float64" else torch.float32))
        return post if up is None else post.mul_(up)

    def block(self, block: int, also: Seen | None = None) -> torch.Tensor:
        """Shifted post-activations ``[kept tokens of the block, neurons]``; overwritten by the next call.

        ``also`` sees every part on its way.
        """
        import numpy as np
        import torch

        if self.device.type != "cpu":
            return self._block_on_device(block, also)
        end = 0
        for layer, inside, columns in self._layers():
            end = 0
            for tokens, stored in self.source.pieces(layer, block):
                keep = self.source.keep[tokens]
                rows = slice(None) if keep.all() else np.flatnonzero(keep)
                post = self.activate(*(part[rows, inside] for part in stored))
                begin, end = end, end + len(post)
                if also is not None:
                    also(columns, slice(begin, end), stored[0][:, inside], post)
                # To the precision of products, where it is less.
                torch.sub(torch.from_numpy(post), self._shift[columns], out=self._buffer[begin:end, columns])
                del post, stored  # before the next part is read
        return self._buffer[:end]

    def _block_on_device(self, block: int, also: Seen | None) -> torch.Tensor:
        import torch

        keep = self.source.keep[self.source.block_slice(block)]
        rows = torch.from_numpy(keep.nonzero()[0]).to(self.device)
        for layer, inside, columns in self._layers():
            stored = self.source.on_device(layer, block, self.device)
            post = self._activate(*(part[:, inside].index_select(0, rows) for part in stored))
            if also is not None:
                also(columns, slice(0, len(rows)), stored[0][:, inside], post)
            torch.sub(post, self._shift[columns], out=self._buffer[: len(rows), columns])
        return self._buffer[: len(rows)]


def require_comparable(a: Activations, b: Activations, allow_self: bool = False) -> None:
    """Refuse pairs whose correlation would mean nothing.

    Raises:
        UserError: other tokens, another token mask, other blocks, or the same model twice.
    """
    for what, key in (("tokens", "tokens"), ("token mask", "exclude")):
        if a.store.made_from[key] != b.store.made_from[key]:
            raise UserError(
                f"{a.store.path} and {b.store.path}: made from different {what};"
                " models are compared on the same ones: dump both with one configuration"
            )
    if a.block_tokens != b.block_tokens:
        raise UserError(
            f"{a.store.path} and {b.store.path}: blocks of {a.block_tokens} and {b.block_tokens} tokens;"
            " sums run over the same blocks: dump both with one neurons.dump.block_tokens"
        )
    same = a.store.made_from["model"] == b.store.made_from["model"]
    same = same or bool(set(a.store.attributes["weights"]) & set(b.store.attributes["weights"]))
    if same and not allow_self:
        raise UserError(
            f"{a.store.path} and {b.store.path}: both hold the same weights"
            f" (models {a.name!r} and {b.name!r});"
            " list different models, or set neurons.allow_self to compare a model with itself"
        )
