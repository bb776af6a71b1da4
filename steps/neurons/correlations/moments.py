"""What one model's neurons do by themselves, as sums that merge by addition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.errors import UserError
from steps.core.tensors import open_tensors, read_tensors
from steps.neurons.activations.store import PILOT_TOKENS, Activations, Precision
from steps.neurons.correlations.products import add_products, mirror, require_all_blocks

if TYPE_CHECKING:
    import numpy as np
    import torch


CACHED = 2**17
"""How many float64 numbers are worked on at once: they stay in the cache from one operation to the next."""


RUN_TOKENS = 16
"""How many tokens in a row are looked at as one when the top examples are searched."""


def require_one_precision(found: dict[Precision, Path]) -> Precision:
    """The precision of all sums that are put together, found in a file each.

    Raises:
        UserError: there are several.
    """
    (first, path), *others = found.items()
    for precision, other in others:
        raise UserError(
            f"{path} and {other}: summed in {first} and {precision};"
            " set neurons.precision, which holds for all steps, and delete both"
        )
    return first


class WithinLayers:
    """Sums ``total [neurons]`` and ``second [layers, d_mlp, d_mlp]`` of shifted post-activations."""

    def __init__(self, layers: int, d_mlp: int, device: str | torch.device = "cpu") -> None:
        import torch

        self.count = 0
        self.total = torch.zeros(layers * d_mlp, dtype=torch.float64, device=device)
        self.second = torch.zeros((layers, d_mlp, d_mlp), dtype=torch.float64, device=device)

    def add(self, values: torch.Tensor) -> None:
        """Add a block ``[tokens, layers * d_mlp]``."""
        import torch

        self.count += len(values)
        if values.device.type != "cpu" or values.dtype.itemsize < 4:
            self.total += values.sum(0, dtype=torch.float64)
        else:  # numpy's sum takes a tenth of the time of torch's
            self.total += torch.from_numpy(values.numpy().sum(0, dtype="float64"))
        d_mlp = self.second.shape[1]
        for layer, second in enumerate(self.second):
            part = values[:, layer * d_mlp : (layer + 1) * d_mlp]
            add_products(second, part, part)

    def finish(self) -> None:
        """Complete the symmetric products, of which :meth:`add` may compute the upper half only."""
        self.total, self.second = self.total.cpu(), self.second.cpu()
        for second in self.second:
            mirror(second)


class Moments:
    """Sums over all tokens, merged from the files of the ranges.

    Attributes:
        count: kept tokens.
        mean: ``[neurons]``, of shifted post-activations.
        norm: ``[neurons]``, root of the centred sum of squares; 0 where a neuron is constant.
        precision: of the products.
        arrays: the merged arrays of the module's docstring, without ``second``, which may be large.
    """

    def __init__(self, files: list[Path], source: Activations) -> None:
        """Merge ``files``, one per token range of ``source``.

        Raises:
            UserError: there is none, one is damaged or lacks, or was made from other activations.
        """
        import numpy as np

        self._files = files
        parts, blocks, precisions = [], [], {}
        for path in files:
            arrays, facts = read_tensors(path, leave="second", kind="moments")
            source.require_origin(path, facts["activations"])
            parts.append(arrays)
            blocks.append((facts["blocks"], path))
            precisions[facts["precision"]] = path
        if not parts:
            raise UserError(f"{source.name}: found no file of its moments, expected one per token range")
        require_all_blocks(blocks, source.blocks)
        self.precision: Precision = require_one_precision(precisions)
        self.arrays = parts[0]
        for part in parts[1:]:
            for name in ("count", "total", "square", "pre_powers", "positive"):
                self.arrays[name] = self.arrays[name] + part[name]
            value, token = (
                np.concatenate([self.arrays[name], part[name]], axis=1)
                for name in ("top_value", "top_token_index")
            )
            order = np.lexsort((token, -value), axis=1)[:, : self.arrays["top_value"].shape[1]]
            self.arrays["top_value"] = np.take_along_axis(value, order, 1)
            self.arrays["top_token_index"] = np.take_along_axis(token, order, 1)
        self.count = int(self.arrays["count"][0])
        self.mean: np.ndarray = self.arrays["total"] / self.count
        centred = self.arrays["square"] - self.count * self.mean**2
        self.norm: np.ndarray = np.sqrt(np.maximum(0.0, centred))

    def covariance(self, layer: int) -> np.ndarray:
        """Centred sums of products ``[d_mlp, d_mlp]`` within a layer, float64."""
        import torch

        total: torch.Tensor | None = None
        for path in self._files:
            with open_tensors(path, checked=True) as (file, _):  # when the others were read
                second = torch.from_numpy(file.get_slice("second")[layer])
            total = second if total is None else total.add_(second)
        assert total is not None
        mean = torch.from_numpy(self.mean[layer * len(total) : (layer + 1) * len(total)])
        return total.addr_(mean, mean, alpha=-self.count).numpy()


class SingleNeurons:
    """Power sums of pre-activations and the top examples of every neuron, block by block."""

    def __init__(self, source: Activations, examples: int, device: str | torch.device = "cpu") -> None:
        import torch

        self.source = source
        self.count = 0
        first = slice(0, min(PILOT_TOKENS, source.block_slice(0).stop))
        self.pilot = torch.cat(
            [torch.from_numpy(source.pre(layer, first)).double().mean(0) for layer in range(source.layers)]
        ).to(device)
        self.powers = torch.zeros((4, source.neurons), dtype=torch.float64, device=device)
        self.positive = torch.zeros(source.neurons, dtype=torch.int64, device=device)
        self._examples = examples
        missing = _ranking(torch.tensor([-torch.inf]), torch.tensor([0xFFFFFFFF]))
        self._top: Any = missing.repeat(source.neurons, examples).numpy()  # in no order
        longest = -(-source.most_kept // RUN_TOKENS) * RUN_TOKENS
        self._values = torch.empty((longest if torch.device(device).type == "cpu" else 0, source.d_mlp))

    def begin(self, block: int) -> None:
        """Begin a block, whose parts are then added."""
        import torch

        where = self.source.block_slice(block)
        self.count += where.stop - where.start
        kept = torch.from_numpy(self.source.keep[where].nonzero()[0]) + where.start
        self._kept = len(kept)
        self._token = torch.nn.functional.pad(kept, (0, -len(kept) % RUN_TOKENS))
        self._values[len(kept) : len(self._token)] = -torch.inf

    def add(self, columns: slice, rows: slice, pre: Any, post: Any) -> None:
        """Add a part of the block, as :meth:`PostActivations.block` shows it: layer by layer."""
        import numpy as np

        step = max(1, CACHED // pre.shape[1])
        for start in range(0, len(pre), step):
            self._add_powers(columns, pre[start : start + step])
        # Not those that are summed: subtracting the pilot value rounds. -0 becomes 0, its equal.
        np.add(post, 0, out=self._values[rows].numpy(), casting="same_kind")
        if len(post) and rows.stop == self._kept:
            self._rank(columns)

    def _rank(self, columns: slice) -> None:
        """Merge the block's values of a layer into its neurons' top examples.

        New ones lie in the runs of ``RUN_TOKENS`` tokens with the largest maxima (the earlier run where
        maxima are equal), at most one run for each, and only where the maximum reaches the smallest
        example so far. So few values are ranked one by one.
        """
        import numpy as np
        import torch

        values = self._values[: len(self._token)]
        largest = values.unflatten(0, (len(values) // RUN_TOKENS, RUN_TOKENS)).amax(1).T.contiguous()
        ranked = _ranking(largest, torch.arange(largest.shape[1])).numpy()
        top = self._top[columns]
        high_enough = (ranked >> 32) >= (top.min(1, keepdims=True) >> 32)
        count = min(int(high_enough.sum(1).max()), self._examples)
        runs = 0xFFFFFFFF - (_largest(ranked, count) & 0xFFFFFFFF)
        place = torch.from_numpy(
            (RUN_TOKENS * runs[:, :, None] + np.arange(RUN_TOKENS)).reshape(len(top), -1)
        )
        new = _ranking(values[place, torch.arange(len(top))[:, None]], self._token[place])
        self._top[columns] = _largest(np.concatenate([top, new.numpy()], axis=1), self._examples)

    def _add_powers(self, columns: slice, stored: np.ndarray) -> None:
        import numpy as np
        import torch

        # Floats above 0 are those whose bits, as a whole number, are above 0: a faster comparison.
        bits = stored.view(f"int{8 * stored.itemsize}")
        self.positive[columns] += torch.from_numpy(np.count_nonzero(bits > 0, axis=0))
        shifted = torch.from_numpy(stored).float().double().sub_(self.pilot[columns]).numpy()
        square = shifted * shifted
        powers = self.powers.numpy()[:, columns]
        powers[0] += shifted.sum(0)
        powers[1] += square.sum(0)
        shifted *= square
        powers[2] += shifted.sum(0)
        square *= square
        powers[3] += square.sum(0)

    def top(self) -> dict[str, np.ndarray]:
        """The arrays ``top_value`` and ``top_token_index``; missing examples are -inf at -1."""
        import numpy as np

        keys = np.sort(self._top, axis=1)[:, ::-1]
        high = keys >> 32
        value = np.where(high < 0, high ^ 0x7FFFFFFF, high).astype(np.int32).view(np.float32)
        token = np.where(value == -np.inf, -1, 0xFFFFFFFF - (keys & 0xFFFFFFFF))
        return {"top_value": value, "top_token_index": token}


class SingleNeuronsOnDevice(SingleNeurons):
    """The same where activations lie on an accelerator, a layer of the block at once."""

    def __init__(self, source: Activations, examples: int, device: str | torch.device) -> None:
        import torch

        super().__init__(source, examples, device)
        self._top = torch.from_numpy(self._top).to(device)

    def add(self, columns: slice, rows: slice, pre: Any, post: Any) -> None:
        """Add the block's part of a layer."""
        import torch

        self.positive[columns] += (pre > 0).sum(0)
        shifted = pre.double() - self.pilot[columns]
        square = shifted * shifted
        for order, power in enumerate((shifted, square, square * shifted, square * square)):
            self.powers[order, columns] += power.sum(0)
        token = self._token[: len(post)].to(post.device)
        keys = torch.cat([self._top[columns], _ranking(post.float().T + 0.0, token)], dim=1)
        self._top[columns] = keys.topk(self._examples, dim=1, sorted=False).values

    def top(self) -> dict[str, np.ndarray]:
        """As in the base class."""
        self._top = self._top.cpu().numpy()
        return super().top()


def _largest(keys: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` largest of each row, in no order."""
    import numpy as np

    if count == keys.shape[1]:
        return keys
    return np.partition(keys, keys.shape[1] - count - 1, axis=1)[:, keys.shape[1] - count :]


def _ranking(value: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Whole numbers that order float32 values ``[neurons, tokens]``, equal ones by the earlier token.

    The value's bits, which order floats as whole numbers once those of negatives are turned round, go
    into the upper half and the token, counted down, into the lower one; so the top examples do not
    depend on how the tokens are cut.
    """
    import torch

    bits = value.view(torch.int32).long()
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32) | (0xFFFFFFFF - token)
