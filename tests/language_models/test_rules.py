"""The rules, run by snakemake: models of the user's own, with the shipped example configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from steps.core.stores import Folder, read_json
from tests.language_models.conftest import ROOT, Prepared, babble, small_model
from tests.workflow.conftest import snakemake as start_snakemake

OWN_TEXTS = {"study": "own", "documents": {"source": "files", "held_out": 0.3, "files": {"folder": "texts"}}}


def snakemake(folder: Path, *options: str, expect: int = 0) -> str:
    """Run Snakemake in ``folder`` with the example configuration and return what it says."""
    config = ROOT / "config/own_models.yaml"
    done = start_snakemake(folder, "--cores", "2", *options, config=config, expect=expect)
    return done.stdout + done.stderr


@pytest.fixture
def own(tmp_path: Path, prepared: Prepared) -> Path:
    """A workspace with two models, one of them in a .bin file, and some texts."""
    folder = tmp_path / "a user's own"
    for seed, name in enumerate(("first", "second")):
        small_model(context=64, seed=seed).save_pretrained(folder / "models" / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(prepared.tokenizer.parent / name, folder / "models/first")
    (folder / "texts").mkdir()
    for k in range(20):
        (folder / f"texts/text {k}.txt").write_text(babble(k, 300))
    return folder


def test_own_models_from_end_to_end(own: Path) -> None:
    options = ("--config", f"corpus={json.dumps(OWN_TEXTS)}", "--", "language_models")
    said = snakemake(own, *options)
    assert "language_models_train" not in said
    results = own / "results/language_models/own_models"
    numbers = read_json(results / "metrics.json")
    assert (numbers["models"], numbers["training_tokens"]) == (2, None)
    assert numbers["held_out_loss/first"] != numbers["held_out_loss/second"]
    assert (results / "figures/loss.svg").exists()
    sources = [
        Folder(own / f"data/models/own_models/{name}/ledger.json", "language_model").attributes["source"]
        for name in ("first", "second")
    ]
    assert [source["path"] for source in sources] == ["models/first", "models/second"]
    assert not (own / "data/raw").exists()
    assert "Nothing to be done" in snakemake(own, *options)

    small_model(context=64, seed=7).save_pretrained(own / "models/second")
    said = snakemake(own, "-n", *options)
    assert "wildcards: model=second" in said
    assert "wildcards: model=first" not in said
    assert "language_models_rows" not in said


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([{"name": "x", "path": "models/nowhere"}], "models/nowhere: no such folder"),
        ([{"name": "x", "path": "texts"}], "texts: found no config.json"),
        ([{"name": "x"}], "a path, or a hub id with a revision"),
        ([{"name": "rows", "path": "models/first"}], "another name than 'rows'"),
        ([{"name": "../x", "path": "models/first"}], "models.0.name"),
        ([{"name": "x", "path": "a"}, {"name": "x", "path": "b"}], "'x' is there twice"),
        ([{"name": "x", "path": "a", "folder": "b"}], "unknown key"),
    ],
)
def test_wrong_lists_are_explained(own: Path, models: list[dict[str, str]], says: str) -> None:
    chapter = {"study": "own_models", "models": models}
    said = snakemake(own, "-n", "--config", f"language_models={json.dumps(chapter)}", expect=1)
    assert says in said
    assert "Traceback" not in said
