"""Summaries of cosines against the whole matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from steps.core.runner import Output
from steps.core.tensors import read_tensors
from steps.interp import weights
from steps.neurons import cosines
from tests.language_models.tiny_models import keep, tiny_model


@pytest.mark.parametrize("shape", ["gpt2_untied", "llama"])
def test_summaries_of_every_kind(shape: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cosines, "BLOCK_VALUES", 3000)  # ten neurons at a time
    model = tiny_model(shape)
    out = Output(tmp_path / "cosines.safetensors")
    cosines.main(keep(tmp_path / "x", model), cosines.Settings(tokens=7, neurons=5), out)
    arrays, _ = read_tensors(out)
    whole = weights.processed(weights.read(model, torch.float64))
    vectors = {
        "in": torch.cat([layer.w_in.T for layer in whole.layers]),
        "out": torch.cat([layer.w_out for layer in whole.layers]),
        "E": whole.ends.w_e,
        "U": whole.ends.w_u.T,
    }
    kinds = ["E_in", "U_in", "E_out", "U_out", "in_in", "in_out", "out_in", "out_out"]
    if shape == "llama":
        vectors["up"] = torch.cat([layer.w_up.T for layer in whole.layers if layer.w_up is not None])
        kinds += ["E_up", "U_up", "in_up", "out_up", "up_in", "up_out", "up_up"]
    units = {name: (v / v.norm(dim=1, keepdim=True)).numpy() for name, v in vectors.items()}
    assert {name.split(".")[0] for name in arrays} == set(kinds)
    for kind in kinds:
        first, second = kind.split("_")
        if first in "EU":
            matrix, kept = units[second] @ units[first].T, 7
        else:
            matrix, kept = units[first] @ units[second].T, 5
            np.fill_diagonal(matrix, 0)
        moments = arrays[f"{kind}.moments"]
        np.testing.assert_allclose(moments[0], matrix.mean(1), atol=1e-6)
        np.testing.assert_allclose(moments[1], matrix.var(1), rtol=1e-4)
        np.testing.assert_allclose(moments[2], stats.skew(matrix, axis=1), atol=1e-3)
        np.testing.assert_allclose(moments[3], stats.kurtosis(matrix, axis=1, fisher=False), rtol=1e-3)
        for side, order in (("top", np.argsort(-matrix, axis=1)), ("bottom", np.argsort(matrix, axis=1))):
            values = np.take_along_axis(matrix, order[:, :kept], 1)
            np.testing.assert_allclose(arrays[f"{kind}.{side}_value"], values, atol=1e-6)
            named = np.take_along_axis(matrix, arrays[f"{kind}.{side}_index"].astype(int), 1)
            np.testing.assert_allclose(named, values, atol=1e-6)
        edges = np.linspace(-1, 1, 100)
        counts = np.stack([np.histogram(row, edges)[0] for row in matrix])
        histogram = arrays[f"{kind}.histogram"]
        assert (histogram.sum(1) == matrix.shape[1]).all()
        assert np.abs(histogram - counts).sum() <= 2 * 4  # a value on an edge may round to either side
