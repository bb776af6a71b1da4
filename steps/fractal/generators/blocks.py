"""Attention blocks of the levels, with and without a cache of what was seen before.

Shapes: ``[rows, tokens, width]``, where a row is one of many short sequences (the patches of one image, the
pixels of one patch) that know nothing of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

ROUNDED = 256
"""The hidden width of a gated MLP is rounded up to a multiple of this (published code)."""


class Cache:
    """Keys and values of the tokens that one block has seen, ``[rows, heads, tokens, head width]`` each."""

    def __init__(self, rows: int, heads: int, tokens: int, width: int, like: Tensor) -> None:
        shape = (rows, heads, tokens, width // heads)
        self._keys, self._values = like.new_empty(shape), like.new_empty(shape)
        self._seen = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of the next tokens; all that were seen, these included."""
        start, self._seen = self._seen, self._seen + keys.shape[2]
        self._keys[:, :, start : self._seen] = keys
        self._values[:, :, start : self._seen] = values
        return self._keys[:, :, : self._seen], self._values[:, :, : self._seen]


def attend(queries: Tensor, keys: Tensor, values: Tensor, cache: Cache | None) -> Tensor:
    """Causal attention: of whole sequences, or of one next token over all that its cache has seen.

    The last token may look at everything before it, so it needs no mask. ``is_causal`` would be wrong: it
    aligns masks top left, where a single query sees the first key alone.
    """
    if cache is None:
        return functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return functional.scaled_dot_product_attention(queries, *cache.append(keys, values))


def rotary_table(grid: int, head_width: int) -> Tensor:
    """What turns queries and keys of a level by the places of patches, ``[tokens, head width / 2, 2]``.

    The first half of the pairs turns with the row, the second with the column, at frequencies 10000 ** (-2j /
    (head width / 2)). Token t carries the content of patch t (counted from 1) and has its place. Token 0, the
    condition, has a row of zeros: every later token sees it with a logit of 0, so that only its value
    matters. That is the published code's way.

    Args:
        grid: patches along a side; there are as many tokens as patches, since the last one is never looked
        at. head_width: of one head, a multiple of 4.
    """
    angles = 10000.0 ** (-torch.arange(head_width // 4).double() * 4 / head_width)
    places = torch.arange(grid * grid - 1)
    turns = torch.cat([torch.outer(places // grid, angles), torch.outer(places % grid, angles)], 1)
    table = torch.zeros(grid * grid, head_width // 2, 2)
    table[1:, :, 0], table[1:, :, 1] = turns.cos(), turns.sin()
    return table


class GatedBlock(nn.Module):
    """A block of the levels of patches: rotary causal attention, a gated MLP (SwiGLU), RMSNorm before each.

    As in the published code, which has it from LlamaGen. No biases; dropout on what each half adds.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        hidden = -(-int(8 * width / 3) // ROUNDED) * ROUNDED
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, table: Tensor, cache: Cache | None = None) -> Tensor:
        """``x`` after the block; ``table`` is that of :func:`rotary_table` for its tokens."""
        rows, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(rows, tokens, 3, self.heads, width // self.heads)
        pairs = torch.view_as_complex(_at_least_float32(qkv[:, :, :2]).unflatten(-1, (-1, 2)))
        turned = pairs * torch.view_as_complex(table)[:, None, None]
        queries, keys = torch.view_as_real(turned).flatten(-2).to(qkv.dtype).permute(2, 0, 3, 1, 4)
        seen = attend(queries, keys, qkv[:, :, 2].transpose(1, 2), cache)
        x = x + self._dropped(self.out(seen.transpose(1, 2).reshape(rows, tokens, width)))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self._dropped(self.down(functional.silu(gate) * up))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class PlainBlock(nn.Module):
    """A block of the pixel module: causal attention and a GELU MLP with biases, LayerNorm before each.

    As in the published code. No dropout and no positions: its tokens come from tables of their own.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """``x`` after the block."""
        rows, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(rows, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        seen = attend(queries, keys, values, cache)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, tokens, width))
        return x + cast("Tensor", self.down(functional.gelu(self.up(self.mlp_norm(x)))))


def _at_least_float32(x: Tensor) -> Tensor:
    """There are no complex numbers of bfloat16."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
