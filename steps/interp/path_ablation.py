"""Which neurons are taken out of which heads' queries, and what follows (docs/neurons.md)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from steps.core.errors import UserError
from steps.core.runner import progress
from steps.core.statistics import exact
from steps.interp.forward import Forward, row_batches
from steps.interp.heads import Heads, Scores, rotated

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import torch


DESTINATIONS = 256
"""Destination tokens whose rows of keys are held at once."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A neuron and a head of a later layer."""

    layer: int
    neuron: int
    head_layer: int
    head: int
    score: float = float("nan")
    source: Literal["named", "strongest"] = "strongest"


def strongest_pairs(scores: Iterable[np.ndarray], d_mlp: int, count: int) -> list[Pair]:
    """The pairs with the largest absolute scores, the largest first; of equal ones the earlier.

    ``scores`` are those of each layer of heads, see :meth:`Scores.of`.
    """
    import numpy as np

    best = []
    for head_layer, values in enumerate(scores):
        flat = np.abs(values).reshape(-1)
        for place in np.argsort(-flat, kind="stable")[:count]:
            neuron, head = divmod(int(place), values.shape[1])
            layer, number = divmod(neuron, d_mlp)
            best.append(Pair(layer, number, head_layer, head, float(values[neuron, head])))
    best.sort(key=lambda p: (-abs(p.score), p.head_layer, p.head, p.layer, p.neuron))
    return best[:count]


def require_pairs(named: list[tuple[int, int, int, int]], layers: int, d_mlp: int, heads: int) -> None:
    """Refuse named pairs that a model of these sizes does not have.

    Raises:
        UserError: there is no such neuron or head, or the head's layer is not a later one.
    """
    for layer, neuron, head_layer, head in named:
        if not (0 <= layer < head_layer < layers and 0 <= neuron < d_mlp and 0 <= head < heads):
            raise UserError(
                f"neurons.attention.named: found {[layer, neuron, head_layer, head]}, expected"
                " [layer, neuron,"
                f" layer of the head, head] of a model with {layers} layers of {d_mlp} neurons and"
                f" {heads} heads,"
                " the head in a later layer than the neuron; name another pair"
            )


def named_pairs(named: list[tuple[int, int, int, int]], d_mlp: int, scores: Scores) -> list[Pair]:
    """The pairs that settings name, which :func:`require_pairs` has checked; ``d_mlp`` is of a layer."""
    pairs = []
    for layer, neuron, head_layer, head in named:
        known = scores.of(head_layer)
        score = float(known[layer * d_mlp + neuron, head]) if len(known) else float("nan")
        pairs.append(Pair(layer, neuron, head_layer, head, score, "named"))
    return pairs


def between(positions: tuple[float, float], context: int) -> tuple[int, int]:
    """From where in a row, BOS left out, and up to where (exclusive) two shares of the context reach.

    Raises:
        UserError: no token lies between.
    """
    low, high = (round(exact(share) * context) for share in positions)
    if max(1, low) >= high:
        raise UserError(
            f"neurons.attention.positions: found {list(positions)}, expected shares between which at"
            " least one"
            f" of the {context} tokens of a row lies, BOS left out; set them further apart"
        )
    return max(1, low), high


def destinations(
    rows: int, context: int, positions: tuple[float, float], count: int, seed: int
) -> np.ndarray:
    """Random destination tokens as indices into the rows' tokens, ascending; BOS is none."""
    import numpy as np

    low, high = between(positions, context)
    inside = (np.arange(rows)[:, None] * context + np.arange(low, high)).reshape(-1)
    chosen = np.random.default_rng(seed).permutation(inside)[:count]
    return np.sort(chosen)


def ablate(
    heads: Heads,
    head: int,
    residual: torch.Tensor,
    position: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    written: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to BOS and norm of a head's output, with parts of what its query reads taken out.

    Args:
        heads: those of the layer.
        head: which of them.
        residual: ``[destinations, d_model]``, before the layer.
        position: of the destinations, ``int64 [destinations]``.
        keys: ``[destinations, context, d_head]``, those of each destination's row.
        values: the same shape, without their constant part.
        written: ``[neurons, destinations, d_model]``, what is taken out; one set for each neuron.
        rotary: cosines and sines at the destinations ``[destinations, rotated]``, or None.

    Returns:
        both ``[neurons, destinations]``.
    """
    import torch

    query = heads.query(residual - written, head)
    if rotary is not None:
        query = rotated(query, *rotary)
    weights = heads.attend(torch.einsum("ndi,dsi->nds", query, keys) * heads.scaling, position)
    output = torch.einsum("nds,dsi->ndi", weights, values) @ heads.output[head]
    return weights[..., 0], output.norm(dim=-1)


def path_ablation(
    forward: Forward,
    layers: list[Heads],
    pairs: list[Pair],
    rows: np.ndarray,
    where: np.ndarray,
    batch_tokens: int,
) -> dict[Pair, np.ndarray]:
    """Activation, change of attention to BOS and relative change of the norm, at every destination.

    Args:
        forward: the model.
        layers: the heads of every layer.
        pairs: neurons and heads.
        rows: tokens ``[rows, context]``.
        where: destinations, see :func:`destinations`.
        batch_tokens: tokens per pass.

    Returns:
        ``float64 [3, destinations]`` for each pair.
    """
    import numpy as np
    import torch

    found: dict[Pair, list[np.ndarray]] = {pair: [] for pair in pairs}
    by_head: dict[tuple[int, int], list[Pair]] = {}
    for pair in pairs:
        by_head.setdefault((pair.head_layer, pair.head), []).append(pair)
    context, start = rows.shape[1], 0
    batches = list(row_batches(rows, batch_tokens))
    for batch in progress(batches, len(batches), "batches of path ablation"):
        inside = torch.from_numpy(where[(where >= start) & (where < start + batch.size)] - start)
        inside = inside.to(forward.device)
        start += batch.size
        if not len(inside) or not pairs:
            continue
        clean = forward.run(batch, {pair.layer for pair in pairs})
        qkv = {layer: layers[layer].of(clean) for layer in {pair.head_layer for pair in pairs}}
        for chunk in inside.split(DESTINATIONS):
            row, position = chunk // context, chunk % context
            for (layer, head), own in by_head.items():
                heads, (_, key, value) = layers[layer], qkv[layer]
                activation = torch.stack([clean.post[p.layer][row, position, p.neuron] for p in own])
                written = torch.cat([forward.written(p.layer, [p.neuron]) for p in own])
                removed = activation[..., None] * written[:, None]
                rotary = heads.rotary(clean)
                if rotary is not None:
                    rotary = tuple(part.expand(len(batch), -1, -1)[row, position] for part in rotary)  # type: ignore[assignment]
                bos, norm = ablate(
                    heads,
                    head,
                    clean.residual[layer][row, position],
                    position,
                    key[row, :, head],
                    value[row, :, head],
                    torch.cat([removed[:1] * 0, removed]),  # the clean pass goes first
                    rotary,
                )
                changes = torch.stack([activation, bos[:1] - bos[1:], (norm[:1] - norm[1:]) / norm[:1]])
                for number, pair in enumerate(own):
                    found[pair].append(changes[:, number].double().cpu().numpy())
    return {pair: np.concatenate(parts, axis=1) for pair, parts in found.items() if parts}
