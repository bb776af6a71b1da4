"""Other measures of similarity and other nulls than Pearson's correlation and rotations (docs/neurons.md).

Reads the activations of the reference and of its partners. Writes one parquet table, a row per neuron of
the reference (:func:`similarity_table`).

Measures, each between all neurons of the reference and all of a partner, over the kept tokens:

===========  ==========================================================================================
``pearson``  correlation of post-activations, as in ``neurons.correlate``
``cosine``   of the vectors of post-activations, whose mean is not subtracted
``jaccard``  of the sets of tokens on which the post-activation is above a threshold
===========  ==========================================================================================

A neuron without variance, without a value other than 0, or without such a token has similarity 0 with every
other. Nulls, each of which takes the partner's place:

============  =========================================================================================
``rotated``   ``R_l v_l``: draw 0 of ``neurons.baseline``, rows of ``R_l`` scaled to unit norm. Keeps what
              the layer as a whole knows of the tokens. Its units fire on about half of the tokens whatever
              the neurons did, so as a null of Jaccard it is weak where neurons fire rarely
``permuted``  the partner's neurons on the kept tokens in another order, one permutation for all of them:
              keeps every neuron's values and how they depend on each other, not on which token they are
``gaussian``  the activation function of independent normal pre-activations, with the mean and variance of
              each neuron's pre-activation over kept tokens: keeps these two only. Mean and variance of
              what comes out are not matched, since real pre-activations are not normal. In gated MLPs what
              the activated gate is multiplied by is such a normal number too, independent of the gate
============  =========================================================================================

All sums are products of matrices: one layer of a partner after the other is held in memory, and the
reference read along it. Counts for Jaccard are exact.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import seed as derive_seed
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_table
from steps.neurons.activations.store import (
    Activations,
    Arithmetic,
    PostActivations,
    Precision,
    arithmetic,
    require_comparable,
)
from steps.neurons.correlations.pearson import correlations
from steps.neurons.correlations.products import add_products
from steps.neurons.correlations.rotation import rotation
from steps.neurons.selection.tables import MEASURES, NULLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd
    import torch


EXACT = 2**24
"""Up to this many tokens in a block, float32 counts them exactly."""


ROWS = 512
"""Neurons of the reference whose similarities are formed at once: this bounds the memory besides the sums."""


class Settings(BaseSettings):
    """Which tokens count, and when a neuron fires."""

    threshold: float = Field(
        0.0, description="a neuron fires, for Jaccard similarity, where its post-activation is above"
    )
    tokens: int | None = Field(
        None, ge=1, description="only the first ones, in whole rows; null: all that are compared"
    )
    seed: int = Field(0, ge=0, description="of rotations, permutations and normal numbers")
    precision: Precision = Field("float32", description="of products; float32 for the 16-bit ones")
    allow_self: bool = Field(False, description="let a model be compared with itself")
    device: Device = Field("cpu", description="where products are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")

    @property
    def arithmetic(self) -> Arithmetic:
        """What values are computed in and multiplied."""
        return arithmetic(self.precision)


class BlockReader:
    """Post-activations of kept tokens among the first ones, not shifted, and the pilot values."""

    def __init__(self, source: Activations, settings: Settings, neurons: slice | None = None) -> None:
        import numpy as np
        import torch

        pilot = PostActivations(source, settings.arithmetic, neurons, device=settings.device).pilot
        nothing = np.zeros(len(pilot))
        self.post = PostActivations(source, settings.arithmetic, neurons, nothing, settings.device)
        self.source = source
        self.pilot = torch.from_numpy(pilot).to(self.post.device)
        self.shift = self.pilot.to(getattr(torch, settings.arithmetic))
        self.threshold = settings.threshold
        limit = settings.tokens or len(source.tokens)
        self.tokens = min(len(source.tokens), -(-limit // source.n_ctx) * source.n_ctx)
        self.blocks = -(-self.tokens // source.block_tokens)
        self.kept = int(source.keep[: self.tokens].sum())

    def tokens_of(self, block: int) -> slice:
        """The tokens of a block that are among the first ones."""
        where = self.source.block_slice(block)
        return slice(where.start, min(where.stop, self.tokens))

    def block(self, block: int) -> torch.Tensor:
        """``[kept tokens, neurons]``; overwritten by the next call."""
        return self.post.block(block)[: int(self.source.keep[self.tokens_of(block)].sum())]

    def values(self, block: torch.Tensor) -> Values:
        """What sums are formed of, for post-activations that are not shifted, of any tokens."""
        return Values(block - self.shift, (block > self.threshold).to(self.shift.dtype))


@dataclasses.dataclass
class Values:
    """A block of one side: ``[tokens, neurons]``, all of one dtype."""

    shifted: torch.Tensor
    fires: torch.Tensor
    """1 where the neuron fires, else 0."""


class Side:
    """Sums of single neurons: values minus ``pilot``, their squares, and tokens on which they fire."""

    def __init__(self, pilot: torch.Tensor) -> None:
        import torch

        self.pilot = pilot
        self.total, self.square, self.fires = (torch.zeros_like(pilot) for _ in range(3))

    def add(self, values: Values) -> None:
        """Add a block."""
        shifted = values.shifted.double()
        self.total += shifted.sum(0)
        self.square += shifted.square().sum(0)
        self.fires += values.fires.double().sum(0)

    def finish(self) -> None:
        """Bring the sums to the host."""
        sums = (self.pilot, self.total, self.square, self.fires)
        self.pilot, self.total, self.square, self.fires = (each.cpu() for each in sums)


class SimilaritySums:
    """Sums of products of the reference's neurons with a layer of a partner, or with a null of it."""

    def __init__(self, rows: int, pilot: torch.Tensor) -> None:
        import torch

        self.side = Side(pilot)
        shape, where = (rows, len(pilot)), pilot.device
        self.product, self.both = (torch.zeros(shape, dtype=torch.float64, device=where) for _ in range(2))

    def add(self, reference: Values, partner: Values) -> None:
        """Add a block."""
        self.side.add(partner)
        add_products(self.product, reference.shifted, partner.shifted)
        add_products(self.both, reference.fires, partner.fires)

    def finish(self) -> None:
        """Bring the sums to the host, where similarities are formed."""
        self.side.finish()
        self.product, self.both = self.product.cpu(), self.both.cpu()

    def similarities(self, reference: Side, count: int) -> Iterator[tuple[slice, dict[str, torch.Tensor]]]:
        """Run of rows after run of rows, ``[rows, columns]`` of each measure."""
        for start in range(0, len(self.product), ROWS):
            rows = slice(start, min(start + ROWS, len(self.product)))
            yield (
                rows,
                {
                    "cosine": self._cosine(rows, reference, count),
                    "jaccard": self._jaccard(rows, reference),
                    "pearson": self._pearson(rows, reference, count),
                },
            )

    def _pearson(self, rows: slice, reference: Side, count: int) -> torch.Tensor:
        def about(side: Side, part: slice) -> tuple[np.ndarray, np.ndarray]:
            total, square = side.total[part], side.square[part]
            centred = (square - total.square() / count).clamp_(min=0)
            return (total / count).numpy(), centred.sqrt().numpy()

        return correlations(
            self.product[rows].clone(), count, about(reference, rows), about(self.side, slice(None))
        )

    def _cosine(self, rows: slice, reference: Side, count: int) -> torch.Tensor:
        a, b = reference, self.side
        product = self.product[rows].clone()  # of shifted values; now of the values themselves
        product.addr_(a.total[rows] + count * a.pilot[rows], b.pilot).addr_(a.pilot[rows], b.total)

        def scale(side: Side) -> torch.Tensor:
            square = side.square + side.pilot * (2 * side.total + count * side.pilot)
            return square.clamp(min=0).rsqrt().nan_to_num_(posinf=0)

        return product.mul_(scale(a)[rows, None]).mul_(scale(b)).clamp_(-1, 1)

    def _jaccard(self, rows: slice, reference: Side) -> torch.Tensor:
        both = self.both[rows]
        either = reference.fires[rows, None] + self.side.fires - both
        return both / either.clamp_(min=1)


def permutation(seed: int, model: str, count: int) -> torch.Tensor:
    """In which order the ``count`` kept tokens of ``model`` are taken; the same for every cut."""
    import numpy as np
    import torch

    key = derive_seed(seed, "neurons.similarity", "permuted", model)
    return torch.from_numpy(np.random.default_rng(key).permutation(count))


class Gaussian:
    """Post-activations of independent normal pre-activations like those of one layer, token after token.

    ``mean`` and ``deviation`` are ``[parts, d_mlp]``: of the pre-activation and, in gated MLPs, of what the
    activated gate is multiplied by.
    """

    def __init__(self, reader: BlockReader, layer: int, settings: Settings) -> None:
        import numpy as np

        source = reader.source
        key = derive_seed(settings.seed, "neurons.similarity", "gaussian", source.name, layer)
        self._generator = np.random.Generator(np.random.SFC64(key))
        self._post = reader.post
        self._stored = source.dtype
        self._dtype = np.dtype(settings.arithmetic)
        first = [part[0].astype(np.float64) for part in source.stored(layer, slice(0, 1))]
        total, square = np.zeros((2, len(first), source.d_mlp))
        for k in range(reader.blocks):
            tokens = reader.tokens_of(k)
            for number, part in enumerate(source.stored(layer, tokens)):
                values = part[source.keep[tokens]] - first[number]
                total[number] += values.sum(0)
                square[number] += (values * values).sum(0)
        mean = total / reader.kept
        self.mean: np.ndarray = np.stack(first) + mean
        self.deviation: np.ndarray = np.sqrt(np.maximum(0, square / reader.kept - mean**2))

    def draw(self, tokens: int) -> torch.Tensor:
        """Those of the next ``tokens``, from pre-activations that are rounded as the kept ones are."""
        import torch

        # Number by number through a token's parts, so that no cut changes which it gets.
        values = self._generator.standard_normal((tokens, *self.mean.shape), dtype=self._dtype)
        values *= self.deviation.astype(self._dtype)
        values += self.mean.astype(self._dtype)
        parts = (values[:, number].astype(self._stored) for number in range(len(self.mean)))
        return torch.from_numpy(self._post.activate(*parts))


def layer_sums(
    reference: BlockReader, partner: Activations, layer: int, settings: Settings
) -> dict[str, SimilaritySums]:
    """Sums of the reference with one layer of ``partner`` (``real``) and with the nulls of that layer."""
    import torch

    d_mlp = partner.d_mlp
    reader = BlockReader(partner, settings, slice(layer * d_mlp, (layer + 1) * d_mlp))
    pilot, dtype, where = reader.pilot, reader.shift.dtype, reader.shift.device
    values = torch.empty((reader.kept, d_mlp), dtype=dtype, device=where)
    end = 0
    for k in range(reader.blocks):
        block = reader.block(k)
        begin, end = end, end + len(block)
        values[begin:end] = block
    order = permutation(settings.seed, partner.name, reader.kept).to(where)
    turn = torch.from_numpy(
        rotation(settings.seed, partner.name, layer, 0, d_mlp, settings.arithmetic)
    ).double()
    turn /= turn.norm(dim=1, keepdim=True)
    turned_pilot = (turn @ pilot.cpu()).to(where)
    turn = turn.to(where, dtype)
    gaussian = Gaussian(reader, layer, settings)
    constant = torch.from_numpy((gaussian.deviation == 0).all(0)).to(where)

    names = ("real", *NULLS)
    sums = {
        n: SimilaritySums(reference.source.neurons, turned_pilot if n == "rotated" else pilot) for n in names
    }
    end = 0
    for k in range(reference.blocks):
        own = reference.block(k)
        begin, end = end, end + len(own)
        left, real = reference.values(own), reader.values(values[begin:end])
        turned = real.shifted @ turn.T
        drawn = torch.where(constant, reader.shift, gaussian.draw(len(own)).to(where))
        right = {
            "real": real,
            "rotated": Values(turned, (turned + turned_pilot > settings.threshold).to(dtype)),
            "permuted": reader.values(values[order[begin:end]]),
            "gaussian": reader.values(drawn),
        }
        for name in names:
            sums[name].add(left, right[name])
    for each in sums.values():
        each.finish()
    return sums


@dataclasses.dataclass
class LargestSimilarity:
    """The largest similarity of each neuron of the reference with any of one partner, by measure."""

    partner: str
    d_mlp: int
    value: dict[str, np.ndarray]
    index: dict[str, np.ndarray]
    null: dict[tuple[str, str], np.ndarray]
    """By measure and null."""


def largest_similarities(
    reference: BlockReader, own: Side, partner: Activations, settings: Settings
) -> LargestSimilarity:
    """Go through the layers of ``partner``; ``own`` are the sums of the reference's neurons."""
    import torch

    rows = reference.source.neurons
    best = {
        (measure, name): torch.full((rows,), -torch.inf, dtype=torch.float64)
        for measure in MEASURES
        for name in ("real", *NULLS)
    }
    index = {measure: torch.zeros(rows, dtype=torch.int64) for measure in MEASURES}
    layers = progress(range(partner.layers), partner.layers, f"layers of {partner.name}")
    for layer in layers:
        for name, sums in layer_sums(reference, partner, layer, settings).items():
            for part, matrices in sums.similarities(own, reference.kept):
                for measure, matrix in matrices.items():
                    value, place = matrix.max(1)
                    here = best[measure, name][part]
                    if name == "real":
                        better = value > here  # the first of equal ones stays
                        index[measure][part][better] = layer * partner.d_mlp + place[better]
                    torch.maximum(here, value, out=here)
    return LargestSimilarity(
        partner.name,
        partner.d_mlp,
        {measure: best[measure, "real"].numpy() for measure in MEASURES},
        {measure: index[measure].numpy() for measure in MEASURES},
        {(measure, null): best[measure, null].numpy() for measure in MEASURES for null in NULLS},
    )


def similarity_table(d_mlp: int, partners: list[LargestSimilarity]) -> pd.DataFrame:
    """The table of the reference, whose layers have ``d_mlp`` neurons.

    Columns: ``layer``, ``neuron``; per measure M: ``M``, the mean over partners of the largest similarity
    with any of their neurons; per null N ``M_N``, the same with the null, and ``M_excess_N``, the
    difference; per partner NAME ``M[NAME]`` and ``M_layer[NAME]``, ``M_neuron[NAME]`` where it is.
    """
    import numpy as np
    import pandas as pd

    number = np.arange(len(partners[0].value["pearson"]))
    columns = {"layer": (number // d_mlp).astype("int32"), "neuron": (number % d_mlp).astype("int32")}
    for measure in MEASURES:
        mean = np.mean([each.value[measure] for each in partners], axis=0)
        columns[measure] = mean
        nulls = {null: np.mean([each.null[measure, null] for each in partners], axis=0) for null in NULLS}
        columns |= {f"{measure}_{null}": value for null, value in nulls.items()}
        columns |= {f"{measure}_excess_{null}": mean - value for null, value in nulls.items()}
        for each in partners:
            columns[f"{measure}[{each.partner}]"] = each.value[measure]
            columns[f"{measure}_layer[{each.partner}]"] = (each.index[measure] // each.d_mlp).astype("int32")
            columns[f"{measure}_neuron[{each.partner}]"] = (each.index[measure] % each.d_mlp).astype("int32")
    return pd.DataFrame(columns)


def compare(sources: list[Activations], settings: Settings) -> pd.DataFrame:
    """The table of the first of ``sources``, the reference, compared with each other one.

    Raises:
        UserError: there is no other, the models may not be compared, or no token is left.
    """

    if len(sources) < 2:
        raise UserError(f"--activations: found {len(sources)}, expected the reference and its partners")
    first, partners = sources[0], sources[1:]
    for partner in partners:
        require_comparable(first, partner, settings.allow_self)
    if first.block_tokens > EXACT:
        raise UserError(
            f"neurons.dump.block_tokens: found {first.block_tokens}, expected at most {EXACT}; lower it"
        )
    reference = BlockReader(first, settings)
    if not reference.kept:
        raise UserError(
            f"neurons.similarity.tokens: found {settings.tokens}, none of which is kept; raise it"
        )
    own = Side(reference.pilot)
    for k in range(reference.blocks):
        own.add(reference.values(reference.block(k)))
    own.finish()
    largest = [largest_similarities(reference, own, partner, settings) for partner in partners]
    return similarity_table(first.d_mlp, largest)


def main(activations: list[Path], settings: Settings, out: Output) -> None:
    """Compare the first model of ``activations``, the reference, with each other one."""
    write_table(compare([Activations(ledger) for ledger in activations], settings), out)


if __name__ == "__main__":
    run(main)
