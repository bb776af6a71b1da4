"""The table of the models' hyperparameters, for every family."""

from __future__ import annotations

from pathlib import Path

from steps.neurons import report
from tests.language_models.tiny_models import keep, tiny_model


def test_hyperparameters_of_every_family(tmp_path: Path) -> None:
    shapes = ("gpt2_untied", "gpt_neox", "llama_tied")
    ledgers = {shape: keep(tmp_path / shape, tiny_model(shape)) for shape in shapes}
    table = report.model_table(ledgers)
    gpt2, neox, llama = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    assert gpt2 == {
        "model": "gpt2_untied",
        "family": "gpt2",
        "layers": 3,
        "heads": 4,
        "d_model": 16,
        "d_mlp": 24,
        "neurons": 72,
        "vocabulary": 300,
        "context": 16,
        "activation": "gelu_new",
        "positions": "learned",
        "tied embeddings": "no",
        "precision": "float32",
    }
    assert neox["positions"] == "rotary, 50 % of each head"
    assert (neox["heads"], neox["d_mlp"], neox["activation"]) == (2, 24, "gelu")
    assert (llama["positions"], llama["tied embeddings"], llama["activation"]) == ("rotary", "yes", "silu")


def test_four_times_the_width_where_gpt2_says_nothing(tmp_path: Path) -> None:
    table = report.model_table({"a": keep(tmp_path / "a", tiny_model(n_inner=None))})
    assert dict(zip(table["columns"], table["rows"][0], strict=True))["d_mlp"] == 64
