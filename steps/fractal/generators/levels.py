"""The recursive model: levels of patches, each of whose outputs is the condition of a generator below it.

The top level takes a vector for the class and emits one condition for each patch of the image; each becomes
the input of the next level, which emits one for each smaller patch, down to single pixels, whose values the
pixel module emits channel by channel. All is autoregressive, so the likelihood is exact: the product, over
all values, of their probabilities given those before (docs/fractal.md).

Images are integers ``[image, row, column, channel]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

from steps.fractal.generators.blocks import Cache, GatedBlock, PlainBlock, rotary_table

if TYPE_CHECKING:
    from torch import Tensor

    from steps.fractal.generators.shapes import Architecture, Images

NULL = -1
"""The label of an image whose class nobody says."""

SPREAD = 0.02
"""Standard deviation of embeddings before training (published code)."""


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images ``[rows, side, side, channels]`` as patches ``[rows, patches, patch, patch, channels]``."""
    rows, side, _, channels = images.shape
    grid = side // patch
    cut = images.view(rows, grid, patch, grid, patch, channels)
    return cut.transpose(2, 3).reshape(rows, grid * grid, patch, patch, channels)


def unpatchify(patches: Tensor) -> Tensor:
    """What :func:`patchify` took apart."""
    rows, count, patch, _, channels = patches.shape
    grid = round(count**0.5)
    cut = patches.view(rows, grid, grid, patch, patch, channels).transpose(2, 3)
    return cut.reshape(rows, grid * patch, grid * patch, channels)


class Level(nn.Module):
    """A level of patches: from one condition and the patches before, a condition for each patch.

    Patches are in raster order.

    As in the published code, without the token of the last patch, at which nothing looks.
    """

    def __init__(
        self, grid: int, patch_values: int, above: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        """Make the level.

        Args:
            grid: patches along a side of what it fills.
            patch_values: values in a patch, those of all pixels and channels.
            above: width of the condition that it is given.
            width: of its own.
            depth: blocks.
            heads: of each block.
            dropout: in training.
        """
        super().__init__()
        self.tokens, self.heads = grid * grid, heads
        self.embed_condition = nn.Linear(above, width)
        self.embed_patch = nn.Linear(patch_values, width)
        self.positions = nn.Parameter(torch.empty(self.tokens, width))
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(GatedBlock(width, heads, dropout) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("table", rotary_table(grid, width // heads), persistent=False)
        self.table: Tensor

    def forward(self, condition: Tensor, patches: Tensor) -> Tensor:
        """The conditions of the first patches.

        Args:
            condition: ``[rows, above]``.
            patches: those that are known, ``[rows, n, patch values]``, n below the number of all.

        Returns:
            ``[rows, n + 1, width]``.
        """
        known = [self.embed_condition(condition)[:, None]]
        if patches.shape[1]:
            known.append(self.embed_patch(patches))
        count = patches.shape[1] + 1
        x = self.norm_in(torch.cat(known, 1) + self.positions[:count])
        for block in self.blocks:
            x = block(x, self.table[:count])
        result: Tensor = self.norm_out(x)
        return result

    def begin(self, rows: int) -> list[Cache]:
        """Empty caches, one for each block."""
        width = self.positions.shape[1]
        return [Cache(rows, self.heads, self.tokens, width, self.positions) for _ in self.blocks]

    def step(self, place: int, given: Tensor, caches: list[Cache]) -> Tensor:
        """The condition ``[rows, width]`` of the patch at ``place``.

        Args:
            place: its number.
            given: the patch before, ``[rows, patch values]``; of the first one the condition.
            caches: of :meth:`begin`, which have seen all before.
        """
        embedded = self.embed_patch(given) if place else self.embed_condition(given)
        x = self.norm_in(embedded + self.positions[place])[:, None]
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, self.table[place : place + 1], cache)
        result: Tensor = self.norm_out(x[:, 0])
        return result


class PixelModule(nn.Module):
    """The last level: the values of one pixel, channel by channel, from its condition.

    As in the published code: a table of embeddings for each channel, which also makes the logits. It has no
    positions, since the tables differ. The token of the last channel, at which nothing looks, is left out.
    """

    def __init__(self, channels: int, values: int, above: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.embed_condition = nn.Linear(above, width)
        self.tables = nn.ParameterList(nn.Parameter(torch.empty(values, width)) for _ in range(channels))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(values)) for _ in range(channels))
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, eps=1e-6)

    def forward(self, condition: Tensor, pixels: Tensor) -> Tensor:
        """Logits ``[rows, n + 1, values]`` of the first channels.

        Args:
            condition: ``[rows, above]``.
            pixels: values of the channels that are known, ``[rows, n]``, n below the number of all.
        """
        known = [self.embed_condition(condition)]
        known += [functional.embedding(pixels[:, c], self.tables[c]) for c in range(pixels.shape[1])]
        x = self.norm_in(torch.stack(known, 1))
        for block in self.blocks:
            x = block(x)
        x = self.norm_out(x)
        logits = [functional.linear(x[:, c], self.tables[c], self.biases[c]) for c in range(len(known))]
        return torch.stack(logits, 1)

    def begin(self, rows: int) -> list[Cache]:
        """Empty caches, one for each block."""
        width = self.tables[0].shape[1]
        return [Cache(rows, self.heads, self.channels, width, self.tables[0]) for _ in self.blocks]

    def step(self, channel: int, given: Tensor, caches: list[Cache]) -> Tensor:
        """Logits ``[rows, values]`` of a channel.

        Args:
            channel: its number.
            given: the value of the channel before, ``[rows]``; for the first one the condition.
            caches: of :meth:`begin`, which have seen all before.
        """
        embedded = (
            functional.embedding(given, self.tables[channel - 1]) if channel else self.embed_condition(given)
        )
        x = self.norm_in(embedded)[:, None]
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache)
        return functional.linear(self.norm_out(x[:, 0]), self.tables[channel], self.biases[channel])


class Fractal(nn.Module):
    """The whole model."""

    def __init__(self, architecture: Architecture, images: Images, dropout: float = 0.0) -> None:
        """Make the model with random weights, from torch's generator.

        Args:
            architecture: its levels; the first side is that of the images.
            images: what it makes.
            dropout: of the levels of patches, in training.
        """
        super().__init__()
        self.architecture, self.images = architecture, images
        sides, widths = architecture.sides, architecture.widths
        depths, heads = architecture.depths, architecture.heads
        self.classes = nn.Parameter(torch.empty(images.classes + 1, widths[0]))
        """The vector of each class, then that of images whose class nobody says."""
        above = [widths[0], *widths]
        self.levels = nn.ModuleList(
            Level(
                *(sides[k] // sides[k + 1], sides[k + 1] ** 2 * images.channels),
                *(above[k], widths[k], depths[k], heads[k]),
                dropout,
            )
            for k in range(len(sides) - 1)
        )
        last = (above[-2], widths[-1], depths[-1], heads[-1])
        self.pixels = PixelModule(images.channels, images.values, *last)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier-uniform matrices, biases 0, norms 1, embeddings normal (published code)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # gate and up are one matrix here, for speed, but two in the published code
                for part in module.weight.chunk(2 if name.endswith("gate_up") else 1):
                    nn.init.xavier_uniform_(part)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        positions = [self.level(number).positions for number in range(len(self.levels))]
        for table in (self.classes, *positions, *self.pixels.tables):
            nn.init.normal_(table, std=SPREAD)

    def level(self, number: int) -> Level:
        """A level of patches, from the top."""
        return cast("Level", self.levels[number])

    def condition(self, labels: Tensor) -> Tensor:
        """The top level's condition ``[images, width]`` for labels ``[images]``, ``NULL`` among them.

        Labels of no class are an index error, without a look at them that would wait for a GPU.
        """
        null = self.images.classes  # the row of NULL, which no other label may become
        rows = torch.where(labels == NULL, null, labels + (labels >= null))
        return functional.embedding(rows, self.classes)

    def scaled(self, patches: Tensor) -> Tensor:
        """Patches ``[..., patch, patch, channels]`` as levels take them: channel, row, column; -1 to 1."""
        flat = patches.movedim(-1, -3).flatten(-3)
        return flat.to(self.classes.dtype) * (2 / (self.images.values - 1)) - 1

    def nll(self, images: Tensor, labels: Tensor) -> Tensor:
        """Minus the log of the probability of every value given those before, in nats.

        Args:
            images: ``int64 [images, side, side, channels]``.
            labels: ``int64 [images]``; ``NULL`` where the class is not said.

        Returns:
            of the shape of ``images``.
        """
        return self._nll(0, images, self.condition(labels))

    def _nll(self, number: int, images: Tensor, condition: Tensor) -> Tensor:
        """The same of what the level ``number`` fills, ``[rows, side, side, channels]``."""
        if number == len(self.levels):
            pixels = images.flatten(1)
            logits = self.pixels(condition, pixels[:, :-1])
            nats = functional.cross_entropy(logits.flatten(0, 1), pixels.flatten(), reduction="none")
            return nats.view(images.shape)
        patches = patchify(images, self.architecture.sides[number + 1])
        below = self.level(number)(condition, self.scaled(patches[:, :-1]))
        nats = self._nll(number + 1, patches.flatten(0, 1), below.flatten(0, 1))
        return unpatchify(nats.view(patches.shape))
