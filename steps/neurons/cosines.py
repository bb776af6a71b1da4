"""Cosines of neurons with the vocabulary and with each other, summarised (authors' code).

Reads one model. Writes a safetensors file. Kinds ``E_in U_in E_out U_out``: cosines of w_in or w_out with all
embeddings (E) or unembeddings (U); kinds ``in_in in_out out_in out_out``: of the neuron's first with all
neurons' second vectors, pairs of a neuron with itself set to 0. Of gated models w_up joins them as ``up``
(``E_up U_up up_up`` and its kinds with ``in`` and ``out``). For each kind:

=========================  ====================================================================
array                      contents
=========================  ====================================================================
``KIND.histogram``         ``int32 [neurons, 99]``, over the edges linspace(-1, 1, 100)
``KIND.moments``           ``float64 [4, neurons]``: mean, variance, skewness, kurtosis (Gaussian 3)
``KIND.top_value`` ...     ``float32 [neurons, kept]``, the largest, descending, and ``top_index``
                           ``int32``: token id, or neuron ``layer * d_mlp + number``
``KIND.bottom_value`` ...  the same for the smallest, ascending
=========================  ====================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device, torch_device
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import power_moments
from steps.core.tensors import write_tensors
from steps.interp.weights import (
    BLOCK_VALUES,
    WeightReader,
    open_reader,
    processed_ends,
    processed_layer,
    unit,
)

if TYPE_CHECKING:
    import numpy as np
    import torch


BINS = 99


class Settings(BaseSettings):
    """What is kept of the cosines."""

    tokens: int = Field(
        100, ge=1, description="largest and smallest cosines with tokens kept per neuron (paper: 100)"
    )
    neurons: int = Field(
        20, ge=1, description="largest and smallest cosines with other neurons kept per neuron (paper: 20)"
    )
    device: Device = Field("cpu", description="where products are computed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def summarise(
    rows: torch.Tensor, others: list[torch.Tensor], kept: int, own: int | None = None
) -> dict[str, np.ndarray]:
    """Summaries of the cosines of ``rows`` with all ``others``.

    Args:
        rows: unit vectors ``[rows, d_model]``.
        others: blocks of unit vectors ``[any, d_model]``.
        kept: how many of the largest and smallest are kept.
        own: the place among the others of the first row itself; the cosine with itself counts as 0.
    """
    import numpy as np
    import torch

    count, start = len(rows), 0
    histogram = torch.zeros(count * BINS, dtype=torch.int64, device=rows.device)
    powers = torch.zeros(4, count, dtype=torch.float64, device=rows.device)
    offset = BINS * torch.arange(count, device=rows.device)[:, None]
    ends: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for block in others:
        cosine = rows @ block.to(rows.device).T
        if own is not None:
            first = max(own, start)
            for number in range(first, min(own + count, start + len(block))):
                cosine[number - own, number - start] = 0
        place = ((cosine + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
        histogram += torch.bincount((place + offset).flatten(), minlength=count * BINS)
        power = torch.ones_like(cosine)
        for order in range(4):
            power *= cosine
            powers[order] += power.sum(1)
        for side, largest in (("top", True), ("bottom", False)):
            values, index = cosine.topk(min(kept, len(block)), dim=1, largest=largest)
            index = index + start
            if side in ends:
                values, index = torch.cat([ends[side][0], values], 1), torch.cat([ends[side][1], index], 1)
                values, chosen = values.topk(min(kept, values.shape[1]), dim=1, largest=largest)
                index = index.gather(1, chosen)
            ends[side] = (values, index)
        start += len(block)
    moments = power_moments(powers.cpu().numpy(), start)
    found = {
        "histogram": histogram.reshape(count, BINS).to(torch.int32).cpu().numpy(),
        "moments": np.stack([moments[name] for name in ("mean", "var", "skew", "kurt")]),
    }
    for side, (values, index) in ends.items():
        found[f"{side}_value"] = values.cpu().numpy()
        found[f"{side}_index"] = index.to(torch.int32).cpu().numpy()
    return found


def cosines(reader: WeightReader, settings: Settings) -> dict[str, np.ndarray]:
    """All arrays of the module's docstring."""
    import numpy as np

    facts, where = reader.facts, torch_device(settings.device)
    ends = processed_ends(reader.ends(), facts)
    vocabulary = {"E": unit(ends.w_e), "U": unit(ends.w_u.T)}
    vectors: dict[str, list[torch.Tensor]] = {"in": [], "out": []}
    for raw in reader.layers():
        layer = processed_layer(raw, facts)
        vectors["in"].append(unit(layer.w_in.T).contiguous())
        vectors["out"].append(unit(layer.w_out))
        if layer.w_up is not None:
            vectors.setdefault("up", []).append(unit(layer.w_up.T).contiguous())
    step = max(1, BLOCK_VALUES // max(facts.d_mlp, facts.vocabulary))
    parts: dict[str, list[np.ndarray]] = {}
    for layer_number in progress(range(facts.layers), facts.layers, "layers of cosines"):
        for begin in range(0, facts.d_mlp, step):
            for name, layers in vectors.items():
                rows = layers[layer_number][begin : begin + step].to(where)
                found = {
                    f"{kind}_{name}": summarise(rows, [tokens], settings.tokens)
                    for kind, tokens in vocabulary.items()
                }
                own = layer_number * facts.d_mlp + begin
                for other, neurons in vectors.items():
                    found[f"{name}_{other}"] = summarise(rows, neurons, settings.neurons, own)
                for kind, arrays in found.items():
                    for key, values in arrays.items():
                        parts.setdefault(f"{kind}.{key}", []).append(values)
    return {
        name: np.concatenate(values, axis=1 if name.endswith("moments") else 0)
        for name, values in sorted(parts.items())
    }


def main(model: Path, settings: Settings, out: Output) -> None:
    """Write the summaries of ``model``."""
    reader = open_reader(model)
    facts = {"model": model.parent.name, "layers": reader.facts.layers, "d_mlp": reader.facts.d_mlp}
    write_tensors(out, cosines(reader, settings), facts)


if __name__ == "__main__":
    run(main)
