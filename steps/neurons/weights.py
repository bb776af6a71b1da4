"""What weights alone say of every neuron (paper, sections 4 to 6).

Reads models, the shared tokenizer and the word lists; no activations. Everything is measured on the
preprocessed weights of :mod:`steps.interp.weights`, layer by layer, in float32. Writes two parquet
tables. ``weights``: a row per neuron of every model, by model, layer and neuron, with

===================================  ================================================================
column                               definition
===================================  ================================================================
``d_model layers``                   of its model: the width of the residual stream, the number of layers
``w_in_norm w_out_norm``             L2 norms; of a gated neuron w_in is the gate's
``l2_penalty``                       the sum of their squares; of a gated neuron with that of w_up
``input_bias``                       bias of the pre-activation, the norm's folded in
``in_out_sim``                       cosine of w_in and w_out
``w_up_norm up_bias``                only where a model is gated: of what the activated gate is multiplied by
``up_out_sim in_up_sim``             only where a model is gated: its cosines
``vocab_mean`` ``_var _skew _kurt``  population moments over the vocabulary of cos(w_out, W_U[:, v]); kurtosis
                                     is 3 for a Gaussian; null where w_out is 0
``null_space_fraction``              norm of w_out's part in the k residual directions to which the
                                     unembedding gives least (all-ones left out with a LayerNorm), share
``null_space_chance``                about what a random direction has: root of k over all directions
``null_space_k``                     k: ``null_space`` of the settings, or fewer where the model has no more
``best_feature``                     token feature whose labels explain most of the variance of the cosines
``best_feature_vr _sign``            the share explained, and the sign of the difference of means
``w_in_max_cos _layer _neuron``      largest cosine of w_in with another neuron's of the model, and whose
``w_out_max_cos _layer _neuron``     the same for w_out
``w_up_max_cos _layer _neuron``       only where a model is gated: the same for w_up
``w_out_min_cos _layer _neuron``     smallest cosine of w_out: candidates for an anti-entropy partner
``k_composition _layer _head``       largest composition K with a head, and which (``neurons.composition``);
                                     null where no head can be reached; the same for ``q v o`` and, only where
                                     a model is gated, ``o_up``
===================================  ================================================================

``logit_effects``: the tokens that each neuron promotes and suppresses most by w_out @ W_U (the scale of the
final norm ignored): ``model layer neuron side`` (``promoted`` or ``suppressed``) ``rank token_id text
value``. A model is called by its folder's name.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device, torch_device
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import row_moments
from steps.core.stores import Folder, write_table
from steps.interp.composition import LargestComposition
from steps.interp.loading import load_tokenizer
from steps.interp.weights import (
    BLOCK_VALUES,
    Embeddings,
    Layer,
    ModelConfig,
    WeightReader,
    open_reader,
    processed_ends,
    processed_layer,
    unit,
)
from steps.language_models.text.tokenizers import token_texts
from steps.neurons.explanations.features import Features, vocabulary_features

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch


logger = logging.getLogger("reprise")


class Settings(BaseSettings):
    """What is measured on weights."""

    effects: int = Field(
        10, ge=1, description="tokens kept that a neuron promotes most, and as many that it suppresses most"
    )
    null_space: int = Field(
        12,
        ge=1,
        description="residual directions that the unembedding gives least to (follow-up paper, GPT-2"
        " small: 12)",
    )
    redundancy: bool = Field(
        True, description="compare every neuron with every other of its model; work grows with their square"
    )
    composition: bool = Field(
        True,
        description="how every neuron composes with every attention head of its model: the largest,"
        " and with which",
    )
    device: Device = Field("cpu", description="where products are computed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def explained(values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance reduction of each row of ``values`` by each boolean column of ``labels``.

    It equals the squared correlation of values and labels, so all pairs are one matrix product.

    Args:
        values: ``[rows, n]``.
        labels: zeros and ones, ``[n, features]``.

    Returns:
        variance reduction ``[rows, features]``, 0 where labels or values are constant; and the sign of the
        difference of means.
    """
    share = labels.mean(0)
    centred = values - values.mean(1, keepdim=True)
    covariance = centred @ labels / len(labels)
    scale = centred.square().mean(1)[:, None] * (share * (1 - share))
    return (covariance.square() / scale).nan_to_num(0, 0, 0), covariance.sign()


def null_space(w_u: torch.Tensor, k: int, leave_ones: bool) -> torch.Tensor:
    """The residual directions ``[d_model, k]`` of the smallest singular values of the unembedding.

    With ``leave_ones`` they are orthogonal to the all-ones direction, to which a centred unembedding gives
    nothing and nothing is written.
    """
    import torch

    gram = torch.zeros(len(w_u), len(w_u), dtype=torch.float64, device=w_u.device)
    for part in w_u.split(max(1, BLOCK_VALUES // len(w_u)), 1):
        gram += part.double() @ part.double().T
    if leave_ones:
        gram += 2 * gram.trace() / len(gram)  # makes all-ones the largest direction instead of the smallest
    return torch.linalg.eigh(gram)[1][:, :k].to(w_u.dtype)


class Vocabulary:
    """The unembedding of a model and what neurons' outputs are compared with."""

    def __init__(self, ends: Embeddings, facts: ModelConfig, features: Features, settings: Settings) -> None:
        """Prepare; ``ends`` are preprocessed, ``features`` hold labels for every row of the embedding."""
        import torch

        device = torch_device(settings.device)
        self.settings = settings
        self.w_u = ends.w_u.to(device)
        self.norm = self.w_u.norm(dim=0)
        self.norm.masked_fill_(self.norm == 0, float("inf"))
        layer_norm = facts.norm == "layer"
        usable = facts.d_model - layer_norm
        self.k = min(settings.null_space, usable)
        self.null = null_space(self.w_u, self.k, layer_norm)
        self.chance = float((self.k / usable) ** 0.5)
        self.features = features
        self.labels = torch.from_numpy(features.matrix).to(device, self.w_u.dtype)

    def measure(
        self, w_out: torch.Tensor
    ) -> tuple[dict[str, np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
        """Measure neurons' effects on the vocabulary.

        Args:
            w_out: ``[neurons, d_model]``.

        Returns:
            columns of the table; and for the promoted and the suppressed side token ids and values
            ``[neurons, effects]``.
        """
        import numpy as np
        import torch

        columns: dict[str, list[np.ndarray]] = {}
        sides: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
        kept = min(self.settings.effects, self.w_u.shape[1])
        for part in w_out.split(max(1, BLOCK_VALUES // self.w_u.shape[1])):
            rows = part.to(self.w_u.device)
            effect = rows @ self.w_u
            for side, largest in zip(sides, (True, False), strict=True):
                values, tokens = effect.topk(kept, dim=1, largest=largest)
                side.append((tokens.cpu().numpy(), values.cpu().numpy()))
            norm = rows.norm(dim=1)
            silent = norm == 0
            cosine = effect.div_(norm.masked_fill(silent, 1)[:, None]).div_(self.norm)
            found = {f"vocab_{name}": value for name, value in row_moments(cosine).items()}
            found["null_space_fraction"] = (rows @ self.null).norm(dim=1) / norm
            reduction, sign = explained(cosine, self.labels)
            found["best_feature_vr"], best = reduction.max(1)
            found["best_feature_sign"] = sign.gather(1, best[:, None])[:, 0].to(torch.int8)
            found["best"] = torch.where(silent, -1, best)
            for name, value in found.items():
                columns.setdefault(name, []).append(value.cpu().numpy())
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        return whole, [
            (np.concatenate([part[0] for part in side]), np.concatenate([part[1] for part in side]))
            for side in sides
        ]


def own_columns(layer: Layer) -> dict[str, np.ndarray]:
    """Norms, bias and cosines of the neurons of a layer."""
    import torch

    w_in, w_out = layer.w_in.T, layer.w_out
    found = {
        "w_in_norm": w_in.norm(dim=1),
        "w_out_norm": w_out.norm(dim=1),
        "l2_penalty": w_in.square().sum(1) + w_out.square().sum(1),
        "input_bias": layer.b_in,
        "in_out_sim": torch.cosine_similarity(w_in, w_out, dim=1),
    }
    if layer.w_up is not None and layer.b_up is not None:
        w_up = layer.w_up.T
        found["l2_penalty"] = found["l2_penalty"] + w_up.square().sum(1)
        found |= {
            "w_up_norm": w_up.norm(dim=1),
            "up_bias": layer.b_up,
            "up_out_sim": torch.cosine_similarity(w_up, w_out, dim=1),
            "in_up_sim": torch.cosine_similarity(w_in, w_up, dim=1),
        }
    return {name: value.cpu().numpy() for name, value in found.items()}


def nearest(units: list[torch.Tensor], device: str, smallest: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each neuron with another one of the model, and the number of that one.

    Each pair of layers is multiplied once, in blocks of rows.

    Args:
        units: unit vectors of each layer, ``[d_mlp, d_model]``.
        device: where products are computed.
        smallest: the smallest cosine instead.

    Returns:
        cosines and numbers ``[layers * d_mlp]``; NaN and -1 where there is no other neuron.
    """
    import torch

    where, sign = torch_device(device), -1.0 if smallest else 1.0
    d_mlp, total = len(units[0]), sum(map(len, units))
    best = torch.full((total,), -torch.inf, device=where)
    number = torch.full((total,), -1, device=where)

    def take(place: slice, values: torch.Tensor, indices: torch.Tensor) -> None:
        better = values > best[place]
        best[place] = torch.where(better, values, best[place])
        number[place] = torch.where(better, indices, number[place])

    step = max(1, BLOCK_VALUES // d_mlp)
    for first, rows in enumerate(progress(units, len(units), "layers of cosines")):
        rows = sign * rows.to(where)
        for second in range(first, len(units)):
            columns = units[second].to(where)
            for start in range(0, d_mlp, step):
                part = rows[start : start + step]
                cosines = part @ columns.T
                if first == second:
                    cosines.diagonal(start).fill_(-torch.inf)
                values, indices = cosines.max(1)
                begin = first * d_mlp + start
                take(slice(begin, begin + len(part)), values, second * d_mlp + indices)
                if first != second:
                    values, indices = cosines.max(0)
                    take(slice(second * d_mlp, (second + 1) * d_mlp), values, begin + indices)
    best[number < 0] = torch.nan
    return (sign * best).cpu().numpy(), number.cpu().numpy()


def redundancy_columns(units: dict[str, list[torch.Tensor]], settings: Settings) -> dict[str, np.ndarray]:
    """Cosines with the most similar other neuron, of each of ``units``; of w_out the most opposite."""
    d_mlp = len(units["w_in"][0])
    columns: dict[str, np.ndarray] = {}
    for name, key, smallest in (*((name, "max", False) for name in units), ("w_out", "min", True)):
        cosine, number = nearest(units[name], settings.device, smallest)
        columns[f"{name}_{key}_cos"] = cosine
        columns[f"{name}_{key}_layer"] = number // d_mlp
        columns[f"{name}_{key}_neuron"] = number % d_mlp
    return columns


def model_tables(
    name: str,
    reader: WeightReader,
    features: Features,
    texts: list[str],
    settings: Settings,
    ends: Embeddings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of one model; ``ends`` are its preprocessed ends."""
    import numpy as np
    import pandas as pd

    facts = reader.facts
    vocabulary = Vocabulary(ends, facts, features, settings)
    parts, effects = [], []
    units: dict[str, list[torch.Tensor]] = {}
    largest = LargestComposition(facts, settings.device)
    for number, raw in enumerate(progress(reader.layers(), facts.layers, f"layers of {name}")):
        layer = processed_layer(raw, facts)
        columns, sides = vocabulary.measure(layer.w_out)
        best = columns.pop("best")
        keys = {"model": name, "layer": np.int32(number), "neuron": np.arange(facts.d_mlp, dtype=np.int32)}
        sizes = {"d_model": np.int32(facts.d_model), "layers": np.int32(facts.layers)}
        part = pd.DataFrame({**keys, **sizes, **own_columns(layer), **columns})
        part["null_space_chance"], part["null_space_k"] = vocabulary.chance, np.int32(vocabulary.k)
        names = pd.array([features.names[index] if index >= 0 else None for index in best], dtype="str")
        part.insert(part.columns.get_loc("best_feature_vr"), "best_feature", names)
        parts.append(part)
        effects += [
            effect_table(name, number, side, *tops, texts) for side, tops in zip(SIDES, sides, strict=True)
        ]
        if settings.redundancy:
            for key, vectors in (("w_in", layer.w_in), ("w_up", layer.w_up), ("w_out", layer.w_out.T)):
                if vectors is not None:
                    units.setdefault(key, []).append(unit(vectors.T).contiguous())
        if settings.composition:
            largest.add(layer)
    table = pd.concat(parts, ignore_index=True)
    further = redundancy_columns(units, settings) if settings.redundancy else {}
    further |= largest.columns() if settings.composition else {}
    for column, values in further.items():
        number = values.dtype.kind == "i"
        table[column] = pd.Series(values).where(values >= 0).astype("Int32") if number else values
    return table, pd.concat(effects, ignore_index=True)


SIDES = ("promoted", "suppressed")


def effect_table(
    name: str, layer: int, side: str, tokens: np.ndarray, values: np.ndarray, texts: list[str]
) -> pd.DataFrame:
    """The tokens on one side of a layer's neurons as rows."""
    import numpy as np
    import pandas as pd

    neuron, rank = (axis.reshape(-1).astype(np.int32) for axis in np.indices(tokens.shape))
    flat = tokens.reshape(-1)
    return pd.DataFrame(
        {
            "model": name,
            "layer": np.int32(layer),
            "neuron": neuron,
            "side": side,
            "rank": rank,
            "token_id": flat.astype(np.int32),
            "text": [texts[token] for token in flat],
            "value": values.reshape(-1),
        }
    )


def main(models: list[Path], tokenizer: Path, settings: Settings, weights: Output, effects: Output) -> None:
    """Write both tables of ``models``."""
    import pandas as pd

    shared, vocabulary = load_tokenizer(tokenizer), Folder(tokenizer, "tokenizer")
    names = [ledger.parent.name for ledger in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--models: found {twice[0]!r} twice; give every model once")
    for ledger in models:
        Folder(ledger, "language_model").require_made_with(vocabulary)
    tables, tops = [], []
    for ledger in models:
        reader = open_reader(ledger)
        ends = processed_ends(reader.ends(), reader.facts)
        features = vocabulary_features(shared, ends.w_e)
        texts = token_texts(shared, reader.facts.vocabulary)
        shown = [text or shared.id_to_token(token) or f"[{token}]" for token, text in enumerate(texts)]
        table, top = model_tables(ledger.parent.name, reader, features, shown, settings, ends)
        tables.append(table)
        tops.append(top)
        logger.info("%s: %d neurons", ledger.parent.name, len(table))
    write_table(pd.concat(tables, ignore_index=True), weights)
    write_table(pd.concat(tops, ignore_index=True), effects)


if __name__ == "__main__":
    run(main)
