"""Neurons that turn attention heads off or on by steering them to BOS (docs/neurons.md).

Reads the reference model and the tokens of its activations. A head that attends to BOS moves next to
nothing, so a neuron of an earlier layer that turns its queries to the key of BOS turns it off.

* Each head's output where it attends to one token only, at BOS against other tokens.
* Heuristic score of all neurons and heads of later layers, ``w_out^T W_Q^T k_BOS / sqrt(d_head)``, with
  ``w_out`` of unit norm and ``k_BOS`` the head's key at position 0 of an input of BOS only, bias included;
  with it what random directions of unit norm get. The layer's factor of GPT-2 with
  ``scale_attn_by_inverse_layer_idx`` is not in the score and stands in a column of its own. Heads with
  rotary positions have no score: their queries turn with the position.
* Path ablation of the strongest pairs, and of named ones: at a destination token ``d``, the neuron's
  ``a(d) * w_out`` is taken out of the residual stream from which this head's query is computed (its norm
  recomputed), while keys and values are those of the clean pass.

``heads`` (parquet, a row per head): ``model``, ``layer``, ``head``; ``bos_norm``, ``other_norm`` (mean over
other tokens), ``norm_ratio`` (other over BOS); ``bos_attention`` (mean over destinations);
``layer_factor``; ``score_max`` ``score_max_layer`` ``score_max_neuron`` and the same three for
``score_min``; ``random_max``, ``random_min``; ``skipped``, why there is no score (null where there is one).

``neurons`` (parquet, a row per neuron): ``model``, ``layer``, ``neuron``; ``head_layer``, ``head``, its
``score`` with that head, ``layer_factor`` of the head; ``cosine`` (score over the largest possible), ``p``
(two-sided, over all later heads), ``p_adjusted``, ``attention_neuron`` (adjusted p at most q); null where no
later head has a score. A positive score turns the head off.

``pairs`` (parquet, a row per pair): ``model``, ``layer`` and ``neuron``, ``head_layer``, ``head``,
``source`` (named, strongest), ``score``, ``layer_factor``, ``destinations``; ``activation_bos``,
``bos_norm``, ``activation_norm``: correlations over destinations of the neuron's activation, of the change
of attention to BOS and of the relative change of the norm of the head's output, changes being clean minus
ablated (positive ``activation_bos``: the neuron turns the head off); ``bos_change``, ``norm_change``: means.

``points`` (safetensors): ``ablated`` (float64 ``[pairs, 3, destinations]``), activation, change of attention
to BOS and relative change of the norm of each pair; where a head has a score, ``scores`` (int64 ``[2,
100]``), how many of the neurons' scores and of the random directions' lie in each bin, and their ``edges``
(float64 ``[101]``). ``numbers``: JSON, ``attention_score_max``, the largest score, and
``attention_neurons``, how many there are; null where no head has a score.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from steps.core.digest import code_digest, file_digest
from steps.core.digest import seed as derived_seed
from steps.core.runner import Output, run
from steps.core.statistics import adjusted_p_values, discovered
from steps.core.stores import write_json, write_table
from steps.core.tensors import write_tensors
from steps.interp.forward import ModelSettings, row_batches
from steps.interp.heads import HeadNorms, Heads, Scores, all_scores, random_directions
from steps.interp.path_ablation import (
    Pair,
    between,
    destinations,
    named_pairs,
    path_ablation,
    require_pairs,
    strongest_pairs,
)
from steps.neurons.activations.store import Activations, first_rows, open_model

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from steps.interp.weights import ModelConfig


ROTARY = "rotary positions: the query turns with the position, so no one key of BOS stands for all"
"""Why a head has no heuristic score."""


NO_BOS = "rows without BOS: no one key stands for what they begin with"
"""The same."""
BINS = 100
"""Of the histogram of scores."""


class Settings(ModelSettings):
    """Which heads, neurons and tokens are looked at."""

    seed: int = Field(0, ge=0, description="of random directions and destination tokens")
    rows: int = Field(64, ge=1, description="rows of tokens, from the start of those of the activations")
    positions: tuple[float, float] = Field(
        (0.5, 1.0),
        description="destination tokens, from and up to which share of the context (paper: the second half)",
    )
    destinations: int = Field(2000, ge=3, description="destination tokens drawn for path ablation")
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of attention neurons")
    random: int = Field(1000, ge=1, description="random directions to compare the neurons with")
    strongest: int = Field(
        20, ge=0, description="neuron-head pairs with the largest absolute score that are ablated"
    )
    named: list[tuple[int, int, int, int]] = Field(
        [], description="further pairs: [neuron's layer, neuron, head's layer, head] each"
    )

    @model_validator(mode="after")
    def _positions_are_a_range(self) -> Settings:
        if not 0 <= self.positions[0] < self.positions[1] <= 1:
            raise ValueError("positions from 0 to 1, the first below the second")
        return self


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; nan where one does not vary."""
    import numpy as np

    varies = np.ptp(a) > 0 and np.ptp(b) > 0  # the mean of equal values may differ from them by rounding
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if varies and scale > 0 else float("nan")


def score_histograms(heads: pd.DataFrame, scores: Scores, directions: torch.Tensor) -> dict[str, np.ndarray]:
    """``scores`` and ``edges`` of the module's docstring; empty where no head has a score.

    Args:
        heads: the table of that name.
        scores: of all neurons.
        directions: the random ones.
    """
    import numpy as np

    layers = sorted(set(heads.loc[heads["score_max"].notna(), "layer"]))
    if not layers:
        return {}
    ends = heads[["score_max", "score_min", "random_max", "random_min"]].abs().to_numpy(float)
    limit = 1.05 * max(np.nanmax(ends), 1e-6)
    edges = np.linspace(-limit, limit, BINS + 1)
    counts = np.zeros((2, BINS), np.int64)
    for layer in layers:
        counts[0] += np.histogram(scores.of(layer), edges)[0]
        counts[1] += np.histogram(scores.beside(layer, directions), edges)[0]
    return {"scores": counts, "edges": edges}


def pair_table(name: str, points: dict[Pair, np.ndarray], layers: list[Heads]) -> pd.DataFrame:
    """The table ``pairs`` of the module's docstring."""
    import pandas as pd

    records = [
        {
            "model": name,
            "layer": pair.layer,
            "neuron": pair.neuron,
            "head_layer": pair.head_layer,
            "head": pair.head,
            "source": pair.source,
            "score": pair.score,
            "layer_factor": layers[pair.head_layer].layer_factor,
            "destinations": values.shape[1],
            "activation_bos": correlation(values[0], values[1]),
            "bos_norm": correlation(values[1], values[2]),
            "activation_norm": correlation(values[0], values[2]),
            "bos_change": values[1].mean(),
            "norm_change": values[2].mean(),
        }
        for pair, values in points.items()
    ]
    whole = ["layer", "neuron", "head_layer", "head", "destinations"]
    real = ["score", "layer_factor", "activation_bos", "bos_norm", "activation_norm"]
    real += ["bos_change", "norm_change"]
    order = ["model", *whole[:-1], "source", *real[:2], "destinations", *real[2:]]
    kinds = {"model": "str", "source": "str"} | dict.fromkeys(whole, "int32") | dict.fromkeys(real, "float64")
    return pd.DataFrame(records, columns=order).astype(kinds)


def head_table(
    name: str, norms: list[HeadNorms], scores: Scores, directions: torch.Tensor, d_mlp: int
) -> pd.DataFrame:
    """The table ``heads`` of the module's docstring; ``directions`` are the random ones."""
    import numpy as np
    import pandas as pd

    records = []
    for layer, sums in enumerate(norms):
        values = scores.of(layer)
        drawn = scores.beside(layer, directions) if len(values) else values
        other, attention = sums.other / sums.others, sums.attention / sums.seen
        assert isinstance(other, np.ndarray)
        assert isinstance(attention, np.ndarray)
        for head in range(len(other)):
            record: dict[str, Any] = {
                "model": name,
                "layer": layer,
                "head": head,
                "bos_norm": sums.bos[head],
                "other_norm": other[head],
                "norm_ratio": other[head] / sums.bos[head] if sums.bos[head] > 0 else float("inf"),
                "bos_attention": attention[head],
                "layer_factor": sums.heads.layer_factor,
            }
            if len(values):
                for what, place in (("max", values[:, head].argmax()), ("min", values[:, head].argmin())):
                    record[f"score_{what}"] = float(values[place, head])
                    record[f"score_{what}_layer"], record[f"score_{what}_neuron"] = divmod(int(place), d_mlp)
                record |= {"random_max": drawn[:, head].max(), "random_min": drawn[:, head].min()}
            rotary = sums.heads.facts.rotary
            first = NO_BOS if layer and not len(values) else None if layer else "no earlier layer"
            record["skipped"] = ROTARY if rotary else first
            records.append(record)
    columns = ["model", "layer", "head", "bos_norm", "other_norm", "norm_ratio", "bos_attention"]
    columns += ["layer_factor", "score_max", "score_max_layer", "score_max_neuron", "score_min"]
    columns += ["score_min_layer", "score_min_neuron", "random_max", "random_min", "skipped"]
    table = pd.DataFrame(records, columns=columns)
    whole = {column: "Int32" for column in columns if column.endswith(("_layer", "_neuron"))}
    real = {column: "float64" for column in columns[3:] if column not in whole and column != "skipped"}
    return table.astype({"layer": "int32", "head": "int32", "skipped": "str", **whole, **real})


def neuron_table(
    name: str, facts: ModelConfig, scores: Scores, factors: list[float], q: float
) -> pd.DataFrame:
    """The table ``neurons`` of the module's docstring; ``factors`` are the ``layer_factor`` of each layer."""
    import numpy as np
    import pandas as pd
    from scipy.special import betainc

    count = facts.layers * facts.d_mlp
    number, heads = np.arange(count), np.zeros(count, np.int64)
    cosine, score = np.zeros(count), np.full(count, np.nan)
    place = np.zeros((2, count), np.int64)
    for layer in range(facts.layers):
        values = scores.of(layer)
        if not len(values):
            continue
        share = values / np.maximum(scores.largest(layer), 1e-30)
        head = np.abs(share).argmax(1)
        own = share[number[: len(share)], head]
        better = np.flatnonzero((np.abs(own) > np.abs(cosine[: len(own)])) | (heads[: len(own)] == 0))
        cosine[better], score[better] = own[better], values[better, head[better]]
        place[0, better], place[1, better] = layer, head[better]
        heads[: len(values)] += values.shape[1]
    # A LayerNorm leaves out one direction; the rest of the residual stream is all that a score sees.
    dimensions = facts.d_model - (facts.norm == "layer")
    single = betainc((dimensions - 1) / 2, 0.5, np.clip((1 - cosine) * (1 + cosine), 0, 1))
    p = np.where(heads > 0, np.minimum(1, heads * single), np.nan)
    adjusted = adjusted_p_values(p)
    known = heads > 0
    return pd.DataFrame(
        {
            "model": name,
            "layer": (number // facts.d_mlp).astype("int32"),
            "neuron": (number % facts.d_mlp).astype("int32"),
            "head_layer": pd.Series(place[0]).where(known).astype("Int32"),
            "head": pd.Series(place[1]).where(known).astype("Int32"),
            "score": score,
            "layer_factor": np.where(known, np.array(factors)[place[0]], np.nan),
            "cosine": np.where(known, cosine, np.nan),
            "p": p,
            "p_adjusted": adjusted,
            "attention_neuron": pd.Series(discovered(adjusted, q)).where(known).astype("boolean"),
        }
    )


def main(
    model: Path,
    activations: Path,
    settings: Settings,
    heads: Output,
    neurons: Output,
    pairs: Output,
    points: Output,
    numbers: Output,
) -> None:
    """Look at the heads of a model and at the neurons that steer them."""
    import numpy as np
    import torch

    source = Activations(activations)
    forward = open_model(model, source, settings.device, settings.dtype)
    rows = first_rows(source, settings.rows)
    parts, context = forward.facts, source.n_ctx
    require_pairs(settings.named, parts.layers, parts.d_mlp, parts.heads)
    low, high = between(settings.positions, context)
    with torch.inference_mode():
        layers = [Heads(forward, layer) for layer in range(parts.layers)]
        scores = all_scores(forward, layers, source.bos)
        directions = random_directions(
            forward, settings.random, derived_seed(settings.seed, "neurons.attention", source.name)
        )
        where = destinations(
            len(rows),
            context,
            settings.positions,
            settings.destinations,
            derived_seed(settings.seed, "neurons.attention", "destinations"),
        )
        norms = [HeadNorms(own, source.bos is not None) for own in layers]
        for batch in row_batches(rows, settings.batch_tokens):
            clean = forward.run(batch)
            for own, sums in zip(layers, norms, strict=True):
                sums.add(*own.of(clean), low, high)
        chosen = named_pairs(settings.named, parts.d_mlp, scores)
        known = {(p.layer, p.neuron, p.head_layer, p.head) for p in chosen}
        chosen += [
            p
            for p in strongest_pairs(map(scores.of, range(parts.layers)), parts.d_mlp, settings.strongest)
            if (p.layer, p.neuron, p.head_layer, p.head) not in known
        ]
        ablated = path_ablation(forward, layers, chosen, rows, where, settings.batch_tokens)
        by_head = head_table(source.name, norms, scores, directions, parts.d_mlp)
        factors = [own.layer_factor for own in layers]
        by_neuron = neuron_table(source.name, parts, scores, factors, settings.q)
        by_pair = pair_table(source.name, ablated, layers)
        write_table(by_head, heads)
        write_table(by_neuron, neurons)
        write_table(by_pair, pairs)
        called = int(by_neuron["attention_neuron"].sum())
        arrays = score_histograms(by_head, scores, directions)
    facts = {
        "kind": "attention points",
        "pairs": file_digest(pairs),
        "code": code_digest("neurons.attention"),
    }
    nothing = np.zeros((0, 3, len(where)))
    each = np.stack(list(ablated.values())) if ablated else nothing
    write_tensors(points, {"ablated": each, **arrays}, facts)
    largest = by_head["score_max"].max()
    scored = largest == largest
    write_json(
        numbers,
        {
            "attention_score_max": float(largest) if scored else None,
            "attention_neurons": called if scored else None,
        },
    )


if __name__ == "__main__":
    run(main)
