"""The first reading of a model's activations: the best explanation of each neuron (see ``neurons.explain``).

It sums by the codes of every labelling over in-sample tokens, from which all features' correlations with all
neurons are one matrix product each, and by token and position. ``second_pass`` reads a second time.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from steps.core.statistics import exact
from steps.neurons.activations.store import Activations, PostActivations
from steps.neurons.explanations.labels import Labelling, add_by_code, squared_correlations

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch


TIE = 1e-9
"""Squared correlations that differ by less are equal: then the first feature counts."""


class Split:
    """Which tokens are read, and which of them are held out: the last rows of every block.

    Blocks of one row are held out in turn. Excluded tokens count too: explanations use all tokens.
    """

    def __init__(self, source: Activations, tokens: int, held_out: float) -> None:
        import numpy as np

        self.source = copy.copy(source)
        self.source.keep = np.ones_like(source.keep)
        self.blocks = -(-tokens // source.block_tokens)
        self._held_out = exact(held_out)

    def parts(self, block: int) -> tuple[slice, slice]:
        """The in-sample and the held-out tokens of a block, counted from its beginning."""
        where = self.source.block_slice(block)
        rows = (where.stop - where.start) // self.source.n_ctx
        inside = rows - round(rows * self._held_out)
        inside = min(max(inside, 1), rows - 1) if rows > 1 else 1 - block % 2
        middle = inside * self.source.n_ctx
        return slice(0, middle), slice(middle, where.stop - where.start)


class SplitReader:
    """Post-activations of all tokens, for some neurons; see :class:`PostActivations`."""

    def __init__(self, split: Split, neurons: slice, device: str = "cpu") -> None:
        self.split = split
        self.n_ctx = split.source.n_ctx
        self.count = neurons.stop - neurons.start
        split.source.depth = (neurons.stop - 1) // split.source.d_mlp + 1
        self.post = PostActivations(split.source, "float32", neurons, device=device)
        self.device = self.post.device

    @property
    def on_host(self) -> bool:
        """Whether values are numpy's too."""
        return self.device.type == "cpu"

    def codes(self, labelling: Labelling, block: int) -> np.ndarray:
        """The codes of a block's tokens."""
        return labelling.codes[self.split.source.block_slice(block)]

    def numbers(self, values: np.ndarray) -> torch.Tensor:
        """Whole numbers of a block's tokens, on the device."""
        import numpy as np
        import torch

        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def add_by_code(self, total: torch.Tensor, values: torch.Tensor, codes: np.ndarray) -> None:
        """Add values ``[tokens, neurons]`` to the row of their code in ``total [codes, neurons]`` (float64).

        An accelerator adds in float64, token by token as sorted by code: ``index_add_`` would add in any
        order there.
        """
        if self.on_host:
            add_by_code(total, values, codes)
        else:
            total.index_put_((self.numbers(codes),), values.double(), accumulate=True)

    def by_row(self, values: torch.Tensor) -> torch.Tensor:
        """``[tokens, ...]`` as ``[rows, context, ...]``."""
        return values.unflatten(0, (-1, self.n_ctx))


class FeatureSums:
    """What the first reading sums, on the reader's device; shifted by the pilot values of the reader.

    Sums over the rows of a block are float32, totals float64. So are sums over the tokens of one code on the
    CPU; an accelerator adds these in float64 throughout.

    Attributes:
        tables: of each labelling ``[codes, neurons]``, in-sample.
        counts: of each labelling ``[codes]``, in-sample.
        tokens: number of tokens in-sample and held out.
        total: ``[2, neurons]``, in-sample and held out.
        squares: ``[2, neurons]``.
    """

    def __init__(self, reader: SplitReader, found: list[Labelling]) -> None:
        import numpy as np
        import torch

        count, context = reader.count, reader.n_ctx
        wide: Any = {"dtype": torch.float64, "device": reader.device}
        self.pilot = torch.from_numpy(reader.post.pilot)
        self.tables = [torch.zeros((labelling.size, count), **wide) for labelling in found]
        self.counts = [np.zeros(labelling.size, np.int64) for labelling in found]
        self.held_table = torch.zeros_like(self.tables[0])
        self.held_counts = np.zeros_like(self.counts[0])
        self.maxima = torch.full((found[0].size, count), -torch.inf, device=reader.device)
        self.tokens = [0, 0]
        self.total, self.squares = torch.zeros((2, 2, count), **wide)
        self.by_position = torch.zeros((2, context, count), **wide)
        self.position_squares = torch.zeros((context, count), **wide)
        self.fired = torch.zeros((context, count), dtype=torch.int64, device=reader.device)
        longest = reader.split.source.block_tokens
        # Made once: new memory costs more than the product.
        self._squares = torch.empty((longest, count), device=reader.device)
        self._fires = torch.empty((longest, count), dtype=torch.bool, device=reader.device)

    def add(self, reader: SplitReader, found: list[Labelling], block: int) -> None:
        """Add a block."""
        import numpy as np
        import torch

        def see(columns: slice, rows: slice, pre: Any, post: Any) -> None:
            if reader.on_host:
                # Floats above 0 are those whose bits, as a whole number, are above 0: a faster comparison.
                bits = pre.view(f"int{8 * pre.itemsize}")
                np.greater(bits, 0, out=self._fires.numpy()[rows, columns])
            else:
                torch.gt(pre, 0, out=self._fires[rows, columns])

        values = reader.post.block(block, see)
        fires = reader.by_row(self._fires[: len(values)].view(torch.uint8))
        if reader.on_host:
            self.fired += torch.from_numpy(fires.numpy().sum(0, dtype=np.int32))
        else:
            self.fired += fires.sum(0)
        squares = torch.mul(values, values, out=self._squares[: len(values)])
        self.position_squares += reader.by_row(squares).sum(0)
        ids = reader.numbers(reader.codes(found[0], block))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "index_reduce.* is in beta")
            self.maxima.index_reduce_(0, ids, values, "amax")
        for side, part in enumerate(reader.split.parts(block)):
            here = values[part]
            self.tokens[side] += len(here)
            sums = reader.by_row(here).sum(0)
            self.by_position[side] += sums
            self.total[side] += sums.sum(0)
            self.squares[side] += squares[part].sum(0)
        inside, outside = reader.split.parts(block)
        for labelling, table, counts in zip(found, self.tables, self.counts, strict=True):
            codes = reader.codes(labelling, block)[inside]
            reader.add_by_code(table, values[inside], codes)
            counts += np.bincount(codes, minlength=labelling.size)
        codes = reader.codes(found[0], block)[outside]
        reader.add_by_code(self.held_table, values[outside], codes)
        self.held_counts += np.bincount(codes, minlength=found[0].size)

    def to_host(self) -> None:
        """Bring all sums to the host, for what comes after the first reading."""
        self.tables = [table.cpu() for table in self.tables]
        self.held_table, self.maxima, self.fired = (
            x.cpu() for x in (self.held_table, self.maxima, self.fired)
        )
        self.total, self.squares = self.total.cpu(), self.squares.cpu()
        self.by_position, self.position_squares = self.by_position.cpu(), self.position_squares.cpu()

    @property
    def centred(self) -> torch.Tensor:
        """In-sample sums of squares around the mean; exactly 0 where a neuron never varies."""
        import torch

        spread = self.squares[0] - self.total[0] ** 2 / max(1, self.tokens[0])
        return torch.where(spread > 1e-10 * self.squares[0], spread, 0.0)

    def profile(self) -> torch.Tensor:
        """In-sample means by position ``[context, neurons]``; BOS's position has the mean of the others.

        A neuron that fires on BOS alone would seem to know the position otherwise.
        """
        import torch

        rows = max(1, self.tokens[0] // len(self.fired))
        mean = self.by_position[0] / rows
        rest = mean[1:].mean(0, keepdim=True) if len(mean) > 1 else torch.zeros_like(mean)
        return torch.cat([rest, mean[1:]]) - rest

    def position_correlation(self) -> torch.Tensor:
        """Squared correlation with :meth:`profile` in-sample, adjusted for its degrees of freedom."""
        import torch

        profile, rows = self.profile(), max(1, self.tokens[0] // len(self.fired))
        mean = self.total[0] / max(1, self.tokens[0])
        covariance = (profile * (self.by_position[0] - rows * mean)).sum(0)
        spread = rows * ((profile - profile.mean(0)) ** 2).sum(0)
        usable = (spread > 0) & (self.centred > 0)
        square = torch.where(usable, covariance**2 / torch.where(usable, spread * self.centred, 1.0), 0.0)
        freedom = max(1, self.tokens[0] - (len(profile) - 1))
        return (1 - (1 - square) * (self.tokens[0] - 1) / freedom).clamp(min=0)

    def position_profile(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std of post-activations at each position ``[neurons, context]``, float32."""
        rows = sum(self.tokens) // len(self.fired)
        mean = self.by_position.sum(0) / rows
        variance = (self.position_squares / rows - mean**2).clamp(min=0)
        return (mean + self.pilot).T.float().numpy(), variance.sqrt().T.float().numpy()

    def position_columns(self) -> dict[str, np.ndarray]:
        """The columns about position of the table of explanations."""
        import torch

        rows = sum(self.tokens) // len(self.fired)

        def information(fired: torch.Tensor) -> np.ndarray:
            share = fired.double() / rows
            whole = share.mean(0)
            terms = torch.special.xlogy(share, share / whole) + torch.special.xlogy(
                1 - share, (1 - share) / (1 - whole)
            )
            found: np.ndarray = torch.nan_to_num(terms).mean(0).clamp(min=0).numpy()
            return found

        mean, std = self.position_profile()
        rest = self.fired[1:]  # without BOS, as the profile
        return {
            "position_mi": information(self.fired),
            "position_p": position_p(rest.numpy(), rows),
            "position_std": mean.std(1),
            "within_position_std": std.mean(1),
        }

    def letter_response(self, own: Labelling, letters: list[str | None]) -> np.ndarray:
        """Difference of means between other tokens that begin with a neuron's letter and the rest.

        nan where a neuron has no letter or no such tokens occur.
        """
        import numpy as np

        result = np.full(len(letters), np.nan)
        names, matrix, counts = own.features.names, own.features.matrix, self.counts[0]
        for sign in sorted({item for item in letters if item}):
            if f"letter_{sign}" not in names:
                continue
            starts = matrix[:, names.index(f"letter_{sign}")].copy()
            unigram = f"unigram {sign!r}"
            alone = matrix[:, names.index(unigram)] if unigram in names else np.zeros_like(starts)
            groups = [starts & ~alone, ~starts]
            numbers = [counts[group].sum() for group in groups]
            if min(numbers) > 0:
                mine = [place for place, item in enumerate(letters) if item == sign]
                table = self.tables[0][:, mine].numpy()
                with_it, rest = (table[group].sum(0) / n for group, n in zip(groups, numbers, strict=True))
                result[mine] = with_it - rest
        return result

    def top_tokens(self, top: int, least: int) -> pd.DataFrame:
        """Token ids of largest mean (of those that occur ``least`` times) and of largest maximum."""
        import numpy as np
        import pandas as pd
        import torch

        counts = torch.from_numpy(self.counts[0] + self.held_counts)
        means = (self.tables[0] + self.held_table) / counts[:, None].clamp(min=1)
        parts = []
        for by, values, usable in (
            ("mean", means, counts >= least),
            ("max", self.maxima.double(), counts > 0),
        ):
            ids = usable.nonzero()[:, 0]
            best = torch.topk(values[ids].T, min(top, len(ids)), dim=1)
            kept = ids[best.indices]
            neuron, rank = np.indices(kept.shape)
            columns = {
                "neuron": neuron,
                "rank": rank.astype("int32"),
                "token_id": kept.int().numpy(),
                "value": (best.values + self.pilot[:, None]).float().numpy(),
                "count": counts[kept].numpy(),
            }
            part = pd.DataFrame({name: values.reshape(-1) for name, values in columns.items()})
            part.insert(1, "by", by)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def position_p(fired: np.ndarray, rows: int) -> np.ndarray:
    """P-values of Pearson's chi-square test that firing does not depend on the position.

    The statistic is about twice the number of tokens times the mutual information (nats); but that has no
    chi-square distribution where neurons fire rarely, a few times at each position. Tokens are taken for
    independent.

    Args:
        fired: how often each neuron fires at each position, ``[positions, neurons]``.
        rows: tokens at each position.

    Returns:
        p-values ``[neurons]``, 1 where a neuron always or never fires.
    """
    import numpy as np
    from scipy.special import chdtrc

    share = fired / rows
    whole = share.mean(0) if len(share) else np.zeros(share.shape[1])
    variance = whole * (1 - whole)
    varies = (variance > 0) & (len(share) > 1)
    distance = rows * ((share - whole) ** 2).sum(0)
    statistic = distance / np.where(varies, variance, 1.0)
    found: np.ndarray = np.where(varies, chdtrc(max(1, len(share) - 1), statistic), 1.0)
    return found


def first_pass(reader: SplitReader, found: list[Labelling]) -> FeatureSums:
    """Sum over all blocks."""
    sums = FeatureSums(reader, found)
    for block in range(reader.split.blocks):
        sums.add(reader, found, block)
    return sums


@dataclasses.dataclass(frozen=True)
class Best:
    """The best explanation of each neuron.

    Attributes:
        feature: ``int [neurons]``, counted through all labellings; then ``position``, then ``none``.
        difference: ``[neurons]``, in-sample difference of means; 0 for position and none.
    """

    feature: np.ndarray
    difference: np.ndarray

    def neurons(self, found: list[Labelling], place: int) -> np.ndarray:
        """The neurons whose explanation is in labelling ``place``; the next one is that of position."""
        import numpy as np

        sizes = [len(labelling.features.names) for labelling in found]
        start = sum(sizes[:place])
        size = sizes[place] if place < len(sizes) else 1
        return np.flatnonzero((self.feature >= start) & (self.feature < start + size))


def best_explanations(sums: FeatureSums, found: list[Labelling], minimum_tokens: int) -> Best:
    """For each neuron the explanation of largest squared correlation in-sample; of equal ones the first."""
    import torch

    centred, count = sums.centred, len(sums.centred)
    value, difference = torch.zeros((2, count), dtype=torch.float64, device=centred.device)
    none = sum(len(labelling.features.names) for labelling in found) + 1
    feature = torch.full((count,), none, device=centred.device)
    start = 0
    for labelling, table, counts in zip(found, sums.tables, sums.counts, strict=True):
        matrix = labelling.features.matrix
        squares, differences = squared_correlations(table, counts, matrix, sums.total[0], centred)
        holds = torch.from_numpy(counts @ matrix)
        rare = (holds < minimum_tokens) | (sums.tokens[0] - holds < minimum_tokens)
        squares[rare.to(squares.device)] = 0
        if len(squares):
            largest, place = torch.round(squares, decimals=9).max(0)
            better = largest > value + TIE
            value = torch.where(better, largest, value)
            feature = torch.where(better, start + place, feature)
            difference = torch.where(better, differences.gather(0, place[None])[0], difference)
        start += len(squares)
    better = sums.position_correlation() > value + TIE
    feature = torch.where(better, start, feature)
    difference = torch.where(better, 0.0, difference)
    return Best(feature.cpu().numpy(), difference.cpu().numpy())
