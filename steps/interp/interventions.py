"""Changing one neuron's value everywhere and measuring every prediction (docs/neurons.md)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from steps.core.runner import progress
from steps.interp.architectures import activation_function
from steps.interp.forward import MEASURES, Forward, Readout, row_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from steps.interp.forward import CleanRun


Kind = Literal["fixed", "clamp", "relu", "mean", "direct"]
"""A fixed value; at most a value; the ReLU of the pre-activation in place of the model's function; the
neuron's mean (mean ablation: its total effect); its mean while what later layers write and the final norm's
scale stay as they were (its direct effect)."""


CHANGES = ("loss_change_abs", "entropy_change_abs", "entropy_lowered", "entropy_raised", "rank_changed")
"""Means over tokens of absolute changes against the clean pass, and shares of tokens."""


@dataclasses.dataclass(frozen=True)
class Intervention:
    """What is done to a neuron at every position."""

    layer: int
    neuron: int
    kind: Kind
    value: float = 0.0
    """Of ``fixed``, ``clamp``, ``mean`` and ``direct``."""


@dataclasses.dataclass
class Sweep:
    """Results over all tokens that count."""

    nominal: dict[str, float]
    """Means of ``MEASURES`` over tokens without intervention."""
    means: list[dict[str, float]]
    """For each intervention, means of ``MEASURES`` and ``CHANGES``."""
    entropy_changes: dict[int, np.ndarray]
    """Change of entropy at every token, for the numbers of the interventions that are to be looked into."""
    entropy: np.ndarray
    """Entropy at every token without intervention."""
    tokens: np.ndarray
    """Where they are: indices into the rows' tokens."""


def counted(rows: np.ndarray, excluded: list[int]) -> np.ndarray:
    """Whether each token's prediction counts, ``bool [rows, context]``.

    The last of a row predicts nothing that is known; ``excluded`` are ids of further tokens.
    """
    import numpy as np

    valid = ~np.isin(rows, excluded)
    valid[:, -1] = False
    return valid


def new_values(
    intervention: Intervention, clean: CleanRun, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The neuron's values under an intervention, ``[rows, context]``.

    Args:
        intervention: what is done.
        clean: the pass without it.
        function: the MLPs' activation function; unused but by readers of gated MLPs, whose ReLU keeps
            what the gate is multiplied by.
    """
    import torch

    layer, neuron = intervention.layer, intervention.neuron
    post = clean.post[layer][..., neuron]
    if intervention.kind == "clamp":
        return post.clamp(max=intervention.value)
    if intervention.kind == "relu":
        rectified = clean.pre[layer][..., neuron].relu()
        return rectified * clean.up[layer][..., neuron] if layer in clean.up else rectified
    return torch.full_like(post, intervention.value)


def sweep(
    forward: Forward,
    rows: np.ndarray,
    interventions: list[Intervention],
    excluded: list[int],
    batch_tokens: int,
    look_into: set[int] | None = None,
) -> Sweep:
    """Measure predictions under each intervention, of each by itself.

    Only the blocks after the neuron's are run again; none for the last block's and for direct effects, whose
    change of the logits has rank one.

    Args:
        forward: the model.
        rows: tokens ``[rows, context]``.
        interventions: what is done, each alone, at all positions.
        excluded: ids of tokens whose predictions do not count.
        batch_tokens: tokens per pass.
        look_into: numbers of the interventions whose change of entropy is kept token by token.
    """
    import numpy as np
    import torch

    readout = Readout(forward)
    function = activation_function(forward.facts.activation)
    names = (*MEASURES, *CHANGES)
    sums = torch.zeros((len(interventions), len(names)), dtype=torch.float64)
    nominal = torch.zeros(len(MEASURES), dtype=torch.float64)
    kept: dict[int, list[np.ndarray]] = {number: [] for number in look_into or ()}
    entropy, places = [], []
    start, total = 0, 0
    batches = list(row_batches(rows, batch_tokens))
    for batch in progress(batches, len(batches), "batches of interventions"):
        clean = forward.run(batch, {each.layer for each in interventions})
        counts = counted(batch, excluded)
        valid = torch.from_numpy(counts).to(forward.device)
        target = torch.from_numpy(np.roll(batch, -1, axis=1)).long().to(forward.device)[valid]
        final = clean.residual[-1][valid]
        directions, scale = readout.directions(final), readout.scale(final)
        before = readout.measure(directions, scale, target)
        nominal += torch.stack([before[name].double().sum().cpu() for name in MEASURES])
        for number, each in enumerate(interventions):
            delta = new_values(each, clean, function) - clean.post[each.layer][..., each.neuron]
            written = forward.written(each.layer, [each.neuron])[0]
            if each.kind == "direct" or each.layer == forward.facts.layers - 1:
                change = delta[valid][:, None]
                moved = scale if each.kind == "direct" else readout.scale(final + change * written)
                after = readout.measure(
                    torch.addmm(directions, change, readout.directions(written)[None]), moved, target
                )
            else:
                residual = clean.residual[each.layer + 1] + delta[..., None] * written
                last = forward.run_from_layer(clean, each.layer, residual)[valid]
                after = readout.measure(readout.directions(last), readout.scale(last), target)
            entropy_change = after["entropy"] - before["entropy"]
            after["loss_change_abs"] = (after["loss"] - before["loss"]).abs()
            after["entropy_change_abs"] = entropy_change.abs()
            after["entropy_lowered"], after["entropy_raised"] = entropy_change < 0, entropy_change > 0
            after["rank_changed"] = after["rank"] != before["rank"]
            sums[number] += torch.stack([after[name].double().sum().cpu() for name in names])
            if number in kept:
                kept[number].append(entropy_change.double().cpu().numpy())
        entropy.append(before["entropy"].double().cpu().numpy())
        places.append(start + np.flatnonzero(counts))
        total, start = total + len(target), start + batch.size
    return Sweep(
        dict(zip(MEASURES, (nominal / total).tolist(), strict=True)),
        [dict(zip(names, (row / total).tolist(), strict=True)) for row in sums],
        {number: np.concatenate(parts) for number, parts in kept.items()},
        np.concatenate(entropy),
        np.concatenate(places),
    )


@dataclasses.dataclass(frozen=True)
class Suppressed:
    """A neuron and a class of tokens that it suppresses."""

    layer: int
    neuron: int
    tokens: tuple[int, ...]


def activation_edges() -> np.ndarray:
    """Edges of the bins that activations are counted in: 0.05 wide, ``float64 [501]``."""
    import numpy as np

    return np.linspace(-10, 15, 501).round(2)


def activation_by_class(
    forward: Forward, rows: np.ndarray, neurons: list[Suppressed], excluded: list[int], batch_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Activation where the next token is in a neuron's class, and where it is not.

    Returns:
        ``float64 [neurons, 2, 3]``: inside and outside the class, the number of tokens, the mean and the
        (population) variance of the activation; mean and variance are nan where there is no token. And
        ``int64 [neurons, 2, 502]``: tokens in the bins between :func:`activation_edges`, the first and the
        last for what lies beyond.
    """
    import numpy as np
    import torch

    layers = sorted({each.layer for each in neurons})
    vocabulary = forward.facts.vocabulary
    member = torch.zeros((len(neurons), vocabulary), dtype=torch.bool, device=forward.device)
    for number, each in enumerate(neurons):
        member[number, list(each.tokens)] = True
    sums = torch.zeros((3, 2, len(neurons)), dtype=torch.float64, device=forward.device)
    edges = torch.from_numpy(activation_edges()).to(forward.device)
    bins = len(edges) + 1
    counts = torch.zeros((len(neurons), 2, bins), dtype=torch.int64, device=forward.device)
    # Where the counts of a neuron begin: those inside first.
    begin = 2 * bins * torch.arange(len(neurons), device=forward.device)[:, None]
    for batch in row_batches(rows, batch_tokens):
        clean = forward.run(batch, set(layers))
        valid = torch.from_numpy(counted(batch, excluded)).to(forward.device)
        target = torch.from_numpy(np.roll(batch, -1, axis=1)).long().to(forward.device)[valid]
        post = torch.stack([clean.post[each.layer][..., each.neuron][valid] for each in neurons]).double()
        inside = member[:, target]
        for place, mask in enumerate((inside, ~inside)):
            for power in range(3):
                sums[power, place] += (mask * post**power).sum(1)
        bin_of = begin + bins * ~inside + torch.bucketize(post, edges, right=True)
        counts += torch.bincount(bin_of.reshape(-1), minlength=counts.numel()).view_as(counts)
    count, first, second = sums.cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = first / count
        variance = np.maximum(second / count - mean**2, 0)
    return np.stack([count, mean, variance], axis=-1).transpose(1, 0, 2), counts.cpu().numpy()
