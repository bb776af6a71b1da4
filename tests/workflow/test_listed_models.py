"""Existing models instead of trained ones: the paper's configuration against miniature stand-ins."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from steps.core.runner import Output
from steps.language_models import evaluate as evaluate_step
from steps.language_models import rows as rows_step
from steps.language_models import tokenizer as tokenizer_step
from steps.workflow import configuration
from tests.language_models.conftest import babble, write_corpus
from tests.language_models.tiny_models import tiny_model
from tests.workflow.conftest import ROOT, TINY, snakemake, write_texts
from tests.workflow.test_configuration import merge

import_step: Any = importlib.import_module("steps.language_models.import")


def byte_tokenizer() -> Any:
    """A tokenizer that knows BOS and the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


SHAPES = {"a": (2, 64), "b": (3, 64), "c": (2, 48)}
"""Layers and neurons of each layer: a study's models need not have one shape."""


def save_models(folder: Path, shapes: Mapping[str, tuple[int, int]], context: int) -> Path:
    """Tiny GPT-2 models with random weights and one byte-level tokenizer, saved by ``save_pretrained``."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    whole = byte_tokenizer()
    for seed, (name, (layers, neurons)) in enumerate(shapes.items()):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=257,
            n_positions=context,
            n_embd=16,
            n_layer=layers,
            n_inner=neurons,
            n_head=2,
            scale_attn_by_inverse_layer_idx=True,
            bos_token_id=0,
            eos_token_id=0,
        )
        GPT2LMHeadModel(config).save_pretrained(folder / name)
        whole.save_pretrained(folder / name)
    return folder


def write_dataset(folder: Path) -> None:
    """A dataset in the layout of the hub, with the label nested as in the Pile."""
    write_texts(folder / "texts", files=40, words=300)
    (folder / "data").mkdir()
    with (folder / "data" / "test.jsonl").open("w", encoding="utf-8") as file:
        for number, path in enumerate(sorted((folder / "texts").iterdir())):
            row = {"text": path.read_text(), "meta": {"pile_set_name": ["Wikipedia", "Github"][number % 2]}}
            file.write(json.dumps(row) + "\n")
    for path in (folder / "texts").iterdir():
        path.unlink()
    (folder / "texts").rmdir()


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which ``config/paper.yaml`` ran, with stand-ins for the hub and few tokens."""
    directory = tmp_path_factory.mktemp("paper")
    save_models(directory / "models", SHAPES, context=512)
    write_dataset(directory / "dataset")
    stand_in = {
        "threads": 1,
        "audit": yaml.safe_load(TINY.read_text(encoding="utf-8"))["audit"],
        "corpus": {"documents": {"held_out": 0.9, "hub": {"dataset": str(directory / "dataset")}}},
        "language_models": {
            "models": [{"name": name, "path": str(directory / "models" / name)} for name in SHAPES],
            "evaluate": {"rows": 4},
        },
        "neurons": {
            "ranges": 2,
            "parts": 2,
            "plan": {"d_mlp": 64, "layers": 2},
            "dump": {"tokens": 8_192, "block_tokens": 1024},
            "correlate": {"draws": 19},
            "clusters": {"bootstraps": 5},
            "intervene": {"named": []},
            "explain": {"neurons_at_once": 64},
        },
    }
    (directory / "stand-in.yaml").write_text(yaml.safe_dump(stand_in))
    snakemake(
        directory,
        *("--cores", "2", "--configfile", str(ROOT / "config" / "paper.yaml"), f"{directory}/stand-in.yaml"),
        *("--", "neurons"),
        config=None,
    )
    return directory


def test_the_papers_path_ends_in_its_study(paper: Path) -> None:
    metrics = json.loads((paper / "results/neurons/paper_small/metrics.json").read_text())
    assert metrics["neurons_per_model"] == 128
    assert metrics["models"] == 3
    assert 7_000 < metrics["tokens"] < 8_192
    assert metrics["draws"] == 19
    table = pd.read_parquet(paper / "results/neurons/paper_small/neurons.parquet")
    assert table["model"].unique().tolist() == ["a", "b", "c"]


def test_no_activations_and_no_products_are_kept(paper: Path) -> None:
    assert not list((paper / "results/neurons/paper_small").rglob("pre"))
    assert not list((paper / "results/neurons/paper_small").rglob("products/**/*.safetensors"))


def test_parts_of_models_are_put_together_and_not_kept(paper: Path) -> None:
    table = pd.read_parquet(paper / "results/neurons/paper_small/explanations.parquet")
    assert table.groupby(["model", "layer"]).size().tolist() == [64] * 2 + [64] * 3 + [48] * 2
    assert {"p_adjusted", "family", "evidence"} <= set(table)
    for step in ("histograms", "explain"):
        assert len(list((paper / f"logs/neurons/{step}/paper_small").glob("*/part-?.log"))) == 2 * 3
    assert not list((paper / "results/neurons/paper_small/parts").rglob("*.*"))
    assert not (paper / "results/neurons/paper_small/text.safetensors").exists()


def test_partners_are_compared_as_they_are(paper: Path) -> None:
    """Every best match is a neuron of the partner's own layers, all of which are shown and reached."""
    results = paper / "results/neurons/paper_small"
    table = pd.read_parquet(results / "excess.parquet")
    data = json.loads((results / "figures/correlation_summary.json").read_text())
    for name in "bc":
        layers, neurons = SHAPES[name]
        assert set(table[f"layer[{name}]"]) == set(range(layers))
        assert table[f"neuron[{name}]"].between(0, neurons - 1).all()
        of_layer = table.groupby("layer")[f"layer[{name}]"].value_counts(normalize=True).unstack(fill_value=0)
        np.testing.assert_allclose(data[f"layer_match_percent[{layers}]"], 100 * of_layer)
    edges = pd.read_parquet(results / "edges.parquet")
    assert edges[["layer_b", "neuron_b"]].ge(0).all(axis=None)
    depth = pd.read_parquet(results / "depth.parquet")
    assert depth.groupby("model")["depth"].max().eq(1).all()
    assert depth.groupby("model").size().to_dict() == {name: layers for name, (layers, _) in SHAPES.items()}


def test_both_tiles_of_each_pair_are_there(paper: Path) -> None:
    files = (paper / "results/neurons/paper_small/correlations").rglob("*.safetensors")
    assert sorted(f"{f.parent.parent.name}{f.parent.name}{f.stem}" for f in files) == [
        f"a{partner}tile-{tile}" for partner in "bc" for tile in (0, 1)
    ]


@pytest.mark.parametrize(
    ("presets", "targets", "jobs"),
    [
        (
            "paper",
            ["neurons"],
            {
                "language_models_import": 5,
                "neurons_products": 4 * 2 * 16,
                "neurons_correlate": 4 * 2,
                "neurons_histograms": 5 * 12,
                "neurons_explain": 5 * 12,
            },
        ),
        (
            "paper paper_medium",
            ["neurons"],
            {"language_models_import": 5, "neurons_products": 4 * 8 * 16, "neurons_correlate": 4 * 8},
        ),
        (
            "paper paper_pythia",
            ["neurons"],
            {"language_models_import": 4, "neurons_products": 3 * 2 * 16, "neurons_correlate": 3 * 2},
        ),
        (
            "paper_pythia_weights",
            ["results/neurons/paper_pythia_weights/figures/roles_by_depth.svg"],
            {
                "language_models_tokenizer": 1,
                "language_models_import": 5,
                "neurons_weights": 1,
                "neurons_roles": 1,
                "neurons_single_figure": 1,
                "total": 9,
            },
        ),
    ],
)
def test_dry_run_of_the_papers_configurations_themselves(
    tmp_path: Path, presets: str, targets: list[str], jobs: dict[str, int]
) -> None:
    files = [str(ROOT / "config" / f"{preset}.yaml") for preset in presets.split()]
    options = ("-n", "--quiet", "rules", "--configfile", *files)
    done = snakemake(tmp_path, *options, "--", *targets, config=None)
    found = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert {name: int(found[name]) for name in jobs} == jobs
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("shape", ["gpt_neox", "llama"])
def test_the_steps_of_the_pythia_study_on_stand_ins(tmp_path: Path, shape: str) -> None:
    """As its rules run them, on tiny models whose embeddings are padded as Pythia's."""
    values: dict[str, Any] = {}
    for name in ("paper", "paper_pythia"):
        merge(values, yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())["language_models"])
    folder = tmp_path / "theirs"
    tiny_model(shape, vocabulary=304, context=512).half().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    values["models"] = [{"name": "a", "path": str(folder)}]
    values["tokenizer"] |= {"hub": None, "revision": None, "path": str(folder)}
    chapter = configuration.configure({"language_models": values}).language_models
    texts = [("Github", "held_out" if k % 2 else "train", babble(k, 600)) for k in range(4)]
    corpus = write_corpus(tmp_path / "documents.parquet", texts)
    shared, packed, model = (tmp_path / part / "ledger.json" for part in ("tokenizer", "rows", "a"))
    out = tmp_path / "evaluations.json"
    tokenizer_step.main(chapter.shared_tokenizer(), Output(shared))
    rows_step.main(corpus, shared, chapter.rows, Output(packed))
    import_step.main(shared, chapter.rows.n_ctx, chapter.source("a"), Output(model))
    evaluate_step.main([model], packed, chapter.evaluate, Output(out))
    attributes = json.loads(shared.read_text())["attributes"]
    assert (attributes["bos"], attributes["vocabulary"]) == (0, 257)
    (found,) = json.loads(out.read_text())
    assert found["targets"] == 511 * found["rows"] > 0
    assert 5 < found["held_out_loss"] < 10
