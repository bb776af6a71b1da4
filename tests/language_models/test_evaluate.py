"""Held-out losses are what transformers computes, and add up over sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder, Ledger, read_array, read_json
from steps.interp import loading
from steps.language_models import evaluate
from steps.language_models.learning import losses
from tests.language_models.conftest import Prepared, small_model
from tests.language_models.tiny_models import keep, tiny_model


def kept(folder: Path, tokenizer: str) -> Path:
    ledger = Ledger(folder / "ledger.json", "language_model", {"test": 1})
    loading.save(small_model(), ledger)
    ledger.finish({"tokenizer": tokenizer, "source": {}, "training_tokens": None})
    return folder / "ledger.json"


@pytest.mark.parametrize("at_once", [16, 48, 4096])
def test_the_loss_is_that_of_transformers(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(losses, "TOKENS_AT_ONCE", at_once)
    rows = read_array(Folder(prepared.rows, "rows"), "held_out")[:10]
    model = small_model()
    with torch.inference_mode():
        expected = model(torch.tensor(rows).long(), labels=torch.tensor(rows).long()).loss
    loss = losses.loss_of(model, rows)
    assert loss.mean == pytest.approx(expected.item(), rel=1e-5)
    assert loss.by_row.shape == (10,)


def test_sources_add_up_and_twice_is_the_same(prepared: Prepared, tmp_path: Path) -> None:
    model = kept(tmp_path / "model", Folder(prepared.tokenizer, "tokenizer").fingerprint)
    outs = [tmp_path / "a.json", tmp_path / "b.json"]
    for out in outs:
        evaluate.main([model, model], prepared.rows, losses.Settings(rows=50), Output(out))
    found, same = read_json(outs[0])
    assert found == same
    parts = found["by_source"].values()
    assert len(parts) == 2
    assert sum(part["targets"] for part in parts) == found["targets"] == 50 * 15
    mean = np.average([p["held_out_loss"] for p in parts], weights=[p["targets"] for p in parts])
    assert found["held_out_loss"] == pytest.approx(mean)
    assert found["parameters"] == sum(p.numel() for p in small_model().parameters())
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize("shape", ["gpt_neox", "llama", "qwen2"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_every_family_is_evaluated_in_every_dtype(
    prepared: Prepared, tmp_path: Path, shape: str, dtype: str
) -> None:
    made = tiny_model(shape)
    ledger = keep(tmp_path / "model", made, Folder(prepared.tokenizer, "tokenizer").fingerprint)
    out = tmp_path / "out.json"
    settings = losses.Settings.model_validate({"rows": 20, "dtype": dtype})
    evaluate.main([ledger], prepared.rows, settings, Output(out))
    rows = torch.tensor(read_array(Folder(prepared.rows, "rows"), "held_out")[:20]).long()
    with torch.inference_mode():
        expected = made(rows, labels=rows).loss.item()
    tolerance = {"float64": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}[dtype]
    assert read_json(out)[0]["held_out_loss"] == pytest.approx(expected, rel=tolerance)


def test_a_model_of_another_tokenizer_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    model = kept(tmp_path / "model", "another")
    with pytest.raises(UserError, match="of another tokenizer"):
        evaluate.main([model], prepared.rows, losses.Settings(), Output(tmp_path / "out.json"))


def test_no_model_is_nothing_to_evaluate(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--models: found none, expected at least one"):
        evaluate.main([], prepared.rows, losses.Settings(), Output(tmp_path / "out.json"))
