"""Universality and persistence of the reference's neurons over training (ours; docs/neurons.md).

Reads the ledgers of the models, the reference first, which list the checkpoints that training kept, and
the reference's activations, from which it takes the tokens, the mask and how values are rounded. Every
model is run at every step that all of them kept, and at the last one; none of its activations are stored.

Writes one parquet table, a row per step and neuron of the reference. With the same step of every partner, as
in ``neurons.baseline``:

=========================================  =========================================================
``step``, ``tokens``, ``layer``, ``neuron``  steps and targets of training; which neuron
``mean_corr``                              mean over partners of the largest correlation
``mean_baseline``, ``mean_baseline_draws``   the same with rotated partners: draw 0, mean over draws
``excess_corr``, ``excess_corr_draws``       differences of the former and these
``universal``                              ``excess_corr`` above the threshold
``p_value``, ``adjusted_p_value``            of ``mean_corr`` against its draws
``privileged_basis``                       adjusted at most q
``constant``                               the neuron does not vary
``self_corr``                              correlation of the neuron with itself after the last step
``best_is_itself``                         no neuron of the last step's model correlates more with it
=========================================  =========================================================
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import adjusted_p_values, discovered, p_values
from steps.core.stores import Folder, read_json, write_table
from steps.interp.loading import weights_fingerprint
from steps.interp.pre_activations import PreActivations
from steps.neurons.activations.store import (
    Activations,
    Arithmetic,
    PostActivations,
    Precision,
    Stored,
    arithmetic,
)
from steps.neurons.correlations.moments import Moments, WithinLayers
from steps.neurons.correlations.pearson import correlations
from steps.neurons.correlations.products import sum_products
from steps.neurons.correlations.rotation import rotated_maxima

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd
    import torch


logger = logging.getLogger("reprise")


FOLDER = "checkpoints/step-"


class Settings(BaseSettings):
    """How much is compared at each step."""

    renamed: ClassVar[dict[str, str]] = {
        "universal_set": "neurons.figure.universal_set",
        "top_share": "neurons.figure.top_share",
    }

    tokens: int = Field(10_000, ge=1, description="the first ones of those compared, in whole rows")
    draws: int = Field(99, ge=1, description="random rotations of each partner at every step")
    threshold: float = Field(0.5, description="excess correlation above which the paper says universal")
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of the calibrated threshold")
    seed: int = Field(0, ge=0, description="of the rotations")
    precision: Precision = Field("float32", description="of products; float32 for the 16-bit ones")
    threads: int = Field(1, ge=1, description="arithmetic threads")

    @property
    def arithmetic(self) -> Arithmetic:
        """What values are computed in and multiplied."""
        return arithmetic(self.precision)


def common_steps(models: list[Path]) -> tuple[dict[int, str | None], float]:
    """The steps that all models kept, and the targets of training in one step.

    Returns:
        Step to the name of its checkpoint in each model's folder, the last one to none; targets.

    Raises:
        UserError: a model kept none, or the models none in common.
    """
    kept, last = [], set()
    for ledger in models:
        folder = Folder(ledger, "language_model")
        files = (name for name in folder.files if name.startswith(FOLDER))
        kept.append({int(name.removeprefix(FOLDER).partition("/")[0]): Path(name).parent for name in files})
        if not kept[-1]:
            raise UserError(
                f"{ledger}: found no checkpoints, which only models keep that are trained here"
                " (language_models.seeds) with language_models.train.checkpoints above 0;"
                " listed models have none"
            )
        curve = read_json(folder.check("curve.json"))
        last.add((curve[-1]["step"], curve[-1]["tokens"]))
    steps = set.intersection(*(set(each) for each in kept))
    if len(last) > 1 or not steps:
        raise UserError(
            f"{models[0].parent.parent}: models trained for {sorted(last)} (steps, tokens) with {len(steps)}"
            " checkpoints in common, expected one length and at least one; train them with the same settings"
        )
    ((total, tokens),) = last
    return {**{step: str(kept[0][step]) for step in sorted(steps)}, total: None}, tokens / total


class InMemory(Activations):
    """Activations of one checkpoint over the first tokens of ``like``, computed once and held."""

    def __init__(self, model: Path, checkpoint: str | None, like: Activations, tokens: int) -> None:
        """Run the model; see :func:`common_steps` for ``checkpoint``."""
        from steps.interp.loading import load

        facts = like.store.attributes
        loaded = load(model, device=facts["device"], dtype=facts["compute_dtype"], checkpoint=checkpoint)
        computed = PreActivations.of(loaded, like.dtype, facts["batch_tokens"])
        self.name = model.parent.name
        self.layers, self.d_mlp = computed.layers, computed.d_mlp
        self.neurons = self.layers * self.d_mlp
        self.n_ctx, self.block_tokens, self.dtype = like.n_ctx, like.block_tokens, like.dtype
        self.activation = computed.activation
        rows = -(-min(tokens, len(like.tokens)) // like.n_ctx)
        self.tokens = like.tokens[: rows * like.n_ctx]
        self.keep = like.keep[: rows * like.n_ctx]
        self.blocks = -(-len(self.tokens) // self.block_tokens)
        self.gated = len(computed.names) > 1
        self._kept = [part.cpu().numpy() for part in computed(self.tokens.reshape(rows, like.n_ctx))]

    def pieces(self, layer: int, block: int, start: int = 0) -> Iterator[tuple[slice, Stored]]:
        """A block's tokens as one part, with what is kept of one layer's neurons there."""
        where = self.block_slice(block)
        yield where, tuple(values[layer, where] for values in self._kept)


class Summed(Moments):
    """Sums of the neurons of a model in memory, without files."""

    def __init__(self, post: PostActivations) -> None:
        """Sum over all tokens of ``post``."""
        import numpy as np

        within = WithinLayers(post.source.layers, post.source.d_mlp)
        for k in range(post.source.blocks):
            within.add(post.block(k))
        within.finish()
        self._second = within.second.numpy()
        self.count = within.count
        self.mean = within.total.numpy() / self.count
        square = self._second.diagonal(axis1=1, axis2=2).reshape(-1)
        self.norm = np.sqrt(np.maximum(0.0, square - self.count * self.mean**2))

    def covariance(self, layer: int) -> np.ndarray:
        """Centred sums of products ``[d_mlp, d_mlp]`` within a layer, float64."""
        second: np.ndarray = self._second[layer]
        mean = self.mean[layer * len(second) : (layer + 1) * len(second)]
        return second - self.count * mean[:, None] * mean


class Checkpoint:
    """One model after one step: what is needed to correlate its neurons."""

    def __init__(self, activations: InMemory, settings: Settings) -> None:
        self.source = activations
        self.post = PostActivations(activations, settings.arithmetic)
        self.sums = Summed(self.post)

    def correlated(self, other: Checkpoint) -> torch.Tensor:
        """Correlations ``[own neurons, neurons of other]``, float64; 0 where one does not vary."""
        count, total = sum_products(self.post, other.post, range(self.source.blocks))
        own, partner = self.sums, other.sums
        return correlations(total, count, (own.mean, own.norm), (partner.mean, partner.norm))


def step_table(reference: Checkpoint, partners: Iterator[Checkpoint], settings: Settings) -> pd.DataFrame:
    """The columns that compare the reference with the same step of its partners."""
    import numpy as np
    import pandas as pd

    largest, null = [], []
    for partner in partners:
        rho = reference.correlated(partner)
        largest.append(rho.amax(1).numpy())
        null.append(
            rotated_maxima(
                rho,
                partner.sums,
                partner.source.layers,
                partner.source.name,
                settings.draws,
                settings.seed,
                settings.arithmetic,
            )
        )
    mean, draws = np.mean(largest, axis=0), np.mean(null, axis=0)
    p = p_values(mean, draws)
    adjusted = adjusted_p_values(p)
    number, d_mlp = np.arange(len(mean)), reference.source.d_mlp
    return pd.DataFrame(
        {
            "layer": (number // d_mlp).astype("int32"),
            "neuron": (number % d_mlp).astype("int32"),
            "mean_corr": mean,
            "mean_baseline": draws[0],
            "mean_baseline_draws": draws.mean(0),
            "excess_corr": mean - draws[0],
            "excess_corr_draws": mean - draws.mean(0),
            "universal": mean - draws[0] > settings.threshold,
            "p_value": p,
            "adjusted_p_value": adjusted,
            "privileged_basis": discovered(adjusted, settings.q),
            "constant": reference.sums.norm == 0,
        }
    )


def persistence(now: Checkpoint, last: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of every neuron with itself after the last step, and whether no other has a larger one."""
    rho = now.correlated(last)
    own = rho.diagonal().numpy().copy()
    # A neuron that does not vary in either has correlation 0 with itself, and no best match.
    return own, (own >= rho.amax(1).numpy()) & (own > 0)


def training_table(models: list[Path], like: Activations, settings: Settings) -> pd.DataFrame:
    """The table of the module's docstring; the first of ``models`` is the reference."""
    import pandas as pd

    steps, targets = common_steps(models)

    def at(model: Path, checkpoint: str | None) -> Checkpoint:
        return Checkpoint(InMemory(model, checkpoint, like, settings.tokens), settings)

    last, tables = at(models[0], None), []
    for step, checkpoint in steps.items():
        now = last if checkpoint is None else at(models[0], checkpoint)
        table = step_table(now, (at(model, checkpoint) for model in models[1:]), settings)
        table.insert(0, "step", step)
        table.insert(1, "tokens", round(step * targets))
        table["self_corr"], table["best_is_itself"] = persistence(now, last)
        logger.info(
            "step %d: excess %.3f, %d above %g, %d calibrated; correlation with the last step %.3f",
            *(step, table["excess_corr"].mean(), table["universal"].sum(), settings.threshold),
            *(table["privileged_basis"].sum(), table["self_corr"].mean()),
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def main(models: list[Path], activations: Path, settings: Settings, out: Output) -> None:
    """Compare the first of ``models``, whose activations are ``activations``, with the others."""
    like = Activations(activations)
    if len(models) < 2:
        raise UserError(f"--models: found {len(models)}, expected the reference and its partners")
    weights: dict[str, Path] = {}
    for ledger in models:
        own = weights_fingerprint(Folder(ledger, "language_model"))
        if own in weights:
            raise UserError(
                f"--models: {weights[own]} and {ledger} hold the same weights; give every model once"
            )
        weights[own] = ledger
    if like.store.made_from["model"] != next(iter(weights)):
        raise UserError(f"{activations}: not of the model {models[0]}; give those of the first model")
    write_table(training_table(models, like, settings), out)


if __name__ == "__main__":
    run(main)
