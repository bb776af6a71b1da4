"""The second reading: whether the best explanations hold up on held-out tokens (see ``neurons.explain``)."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from steps.neurons.activations.bins import BINS, bin_edges, bin_numbers
from steps.neurons.explanations.first_pass import Best, FeatureSums, SplitReader
from steps.neurons.explanations.labels import Labelling, variance_reduction
from steps.neurons.explanations.syntax import ROLES

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclasses.dataclass(frozen=True)
class Explained:
    """What the second reading says of the best explanations.

    Attributes:
        reduction: ``[2, neurons]``, in-sample and held out: variance reduction; for position, squared
            correlation.
        p: ``[neurons]``, of the held-out rows.
        role: ``[neurons]``, number in ``syntax.ROLES`` with most of the response.
        role_share: its share.
        bins_on: ``int32 [neurons, 257]``, pre-activations of tokens with the feature.
    """

    reduction: np.ndarray
    p: np.ndarray
    role: np.ndarray
    role_share: np.ndarray
    bins_on: np.ndarray


class _Labels:
    """The best label of every neuron, block by block: 0 or 1, or the profile over positions."""

    def __init__(
        self, reader: SplitReader, found: list[Labelling], best: Best, profile: torch.Tensor
    ) -> None:
        import numpy as np
        import torch

        self._reader = reader
        self._parts: list[tuple[Labelling | None, torch.Tensor]] = []
        owned = [best.neurons(found, place) for place in range(len(found) + 1)]
        start = 0
        for labelling, mine in zip(found, owned, strict=False):
            matrix = labelling.features.matrix[:, best.feature[mine] - start].astype("float32")
            self._parts.append((labelling, torch.from_numpy(matrix).to(reader.device)))
            start += len(labelling.features.names)
        self._parts.append((None, profile[:, torch.from_numpy(owned[-1])].float().to(reader.device)))
        # Neurons without an explanation come last and get the label 0.
        self._without = reader.count - sum(map(len, owned))
        every = np.concatenate(owned)
        every = np.concatenate([every, np.setdiff1d(np.arange(reader.count), every)])
        self._order = torch.from_numpy(np.argsort(every)).to(reader.device)
        self._labels = torch.empty((reader.split.source.block_tokens, reader.count), device=reader.device)
        self.binary = torch.ones(reader.count, dtype=torch.bool)
        self.binary[torch.from_numpy(owned[-1])] = False

    def block(self, block: int) -> torch.Tensor:
        """Labels ``[tokens, neurons]`` of a block, float32; overwritten by the next call."""
        import numpy as np
        import torch

        where = self._reader.split.source.block_slice(block)
        parts = []
        for labelling, matrix in self._parts:
            if labelling is None:
                codes = np.arange(where.start, where.stop) % self._reader.n_ctx
            else:
                codes = self._reader.codes(labelling, block)
            parts.append(matrix.index_select(0, self._reader.numbers(codes)))
        parts.append(torch.zeros((where.stop - where.start, self._without), device=self._reader.device))
        out = self._labels[: where.stop - where.start]
        return torch.index_select(torch.cat(parts, 1), 1, self._order, out=out)


def second_pass(
    reader: SplitReader, found: list[Labelling], best: Best, sums: FeatureSums, roles: np.ndarray
) -> Explained:
    """Sum what the best explanations need, over all blocks; ``sums`` lie on the host.

    On the reader's device. Sums over a block are float32, totals float64.
    """
    import numpy as np
    import torch

    profile = sums.profile()
    labels = _Labels(reader, found, best, profile)
    count = reader.count
    wide: Any = {"dtype": torch.float64, "device": reader.device}
    number, product, squares = torch.zeros((3, 2, count), **wide)
    score, score_squares = torch.zeros((2, count), **wide)
    role_number, role_product = torch.zeros((2, len(ROLES), count), **wide)
    on_bins = torch.zeros((count, BINS), dtype=torch.int64, device=reader.device)
    one_of = torch.eye(len(ROLES), device=reader.device)
    means = _label_means(found, best, sums).to(reader.device)
    value_mean = (sums.total[0] / max(1, sums.tokens[0])).float().to(reader.device)
    buffer = torch.empty((reader.split.source.block_tokens, count), device=reader.device)
    for block in range(reader.split.blocks):
        y = labels.block(block)
        on = y > 0

        def see(columns: slice, rows: slice, pre: Any, post: Any, on: torch.Tensor = on) -> None:
            if reader.on_host:
                _count_bins(on_bins.numpy()[columns], pre, on.numpy()[rows, columns])
            else:
                _count_bins_on_device(on_bins[columns], pre, on[rows, columns])

        v = reader.post.block(block, see)
        yv = torch.mul(y, v, out=buffer[: len(v)])
        weights = one_of[reader.numbers(roles[reader.split.source.block_slice(block)])].T.contiguous()
        role_number += weights @ y
        role_product += weights @ yv
        for side, part in enumerate(reader.split.parts(block)):
            rows_y, rows_v, rows_yv = (reader.by_row(x[part]).sum(1) for x in (y, v, yv))
            number[side] += rows_y.sum(0)
            product[side] += rows_yv.sum(0)
            if side == 1:
                u = rows_yv - means * rows_v - value_mean * rows_y + reader.n_ctx * means * value_mean
                score += u.sum(0)
                score_squares += (u * u).sum(0)
        yv *= v
        for side, part in enumerate(reader.split.parts(block)):
            squares[side] += yv[part].sum(0)
    number, product, squares, score, score_squares, role_number, role_product, on_bins = (
        x.cpu() for x in (number, product, squares, score, score_squares, role_number, role_product, on_bins)
    )
    bins_on = on_bins.numpy()
    bins_on[~labels.binary.numpy()] = 0
    reduction = np.zeros((2, count))
    for side in (0, 1):
        tokens, total, whole = sums.tokens[side], sums.total[side], sums.squares[side]
        if tokens < 2:
            continue
        own = [x[side].numpy() for x in (number, product, squares)]
        binary = variance_reduction(own[0], own[1], own[2], tokens, total.numpy(), whole.numpy())
        covariance = product[side] - number[side] * total / tokens
        label_spread = tokens * profile.var(0, correction=0)
        spread = label_spread * (whole - total**2 / tokens)
        straight = torch.where(spread > 0, covariance.clamp(min=0) ** 2 / spread.clamp(min=1e-30), 0.0)
        reduction[side] = np.where(labels.binary.numpy(), binary, straight.numpy())
    z = score / score_squares.sqrt().clamp(min=1e-30)
    p = torch.where(score_squares > 0, torch.special.erfc(z.abs() / 2**0.5), 1.0)
    outside = (sums.total.sum(0) - product.sum(0)) / (sum(sums.tokens) - number.sum(0)).clamp(min=1)
    response = (role_product - role_number * outside) * torch.from_numpy(np.sign(best.difference))
    share = response.clamp(min=0) / response.clamp(min=0).sum(0).clamp(min=1e-30)
    return Explained(
        reduction, p.numpy(), share.argmax(0).numpy(), share.amax(0).numpy(), bins_on.astype(np.int32)
    )


def _label_means(found: list[Labelling], best: Best, sums: FeatureSums) -> torch.Tensor:
    """In-sample mean of each neuron's best label, float32."""
    import numpy as np
    import torch

    shares = [
        counts @ labelling.features.matrix / max(1, sums.tokens[0])
        for labelling, counts in zip(found, sums.counts, strict=True)
    ]
    each = np.concatenate([*shares, [0.0, 0.0]])[best.feature]
    mine = best.neurons(found, len(found))
    each[mine] = sums.profile().mean(0).numpy()[mine]
    return torch.from_numpy(each).float()


def _count_bins(counts: np.ndarray, pre: np.ndarray, on: np.ndarray) -> None:
    """Add the bins of those pre-activations ``[tokens, neurons]`` that are ``on`` to ``[neurons, 257]``."""
    import numpy as np

    at = np.flatnonzero(np.ascontiguousarray(on))
    chosen = pre.reshape(-1)[at]
    numbers = _half_bins()[chosen.view(np.uint16)] if pre.dtype == np.float16 else bin_numbers(chosen)
    counts += np.bincount(numbers + BINS * (at % pre.shape[1]), minlength=counts.size).reshape(counts.shape)


def _count_bins_on_device(counts: torch.Tensor, pre: torch.Tensor, on: torch.Tensor) -> None:
    """The same for tensors on an accelerator; whole numbers, so the order of additions does not matter."""
    import torch

    edges = torch.from_numpy(bin_edges()).to(pre.device)
    places = torch.bucketize(pre.double(), edges)
    places += BINS * torch.arange(pre.shape[1], device=pre.device)
    counts.view(-1).scatter_add_(0, places.view(-1), on.reshape(-1).long())


@functools.cache
def _half_bins() -> np.ndarray:
    """The bin of every float16 number by its bits."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return bin_numbers(np.arange(2**16, dtype=np.uint16).view(np.float16))
