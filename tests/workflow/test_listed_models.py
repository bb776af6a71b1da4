"""Existing models instead of trained ones: the paper's configuration against miniature stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import ROOT, snakemake, write_texts


def save_models(folder: Path, names: str, context: int) -> Path:
    """Tiny GPT-2 models with random weights and one byte-level tokenizer, saved by ``save_pretrained``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=257,
            n_positions=context,
            n_embd=16,
            n_layer=2,
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
    save_models(directory / "models", "ab", context=512)
    write_dataset(directory / "dataset")
    stand_in = {
        "threads": 1,
        "corpus": {"documents": {"held_out": 0.9, "hub": {"dataset": str(directory / "dataset")}}},
        "language_models": {
            "models": [{"name": name, "path": str(directory / "models" / name)} for name in "ab"],
            "evaluate": {"rows": 4},
        },
        "neurons": {
            "ranges": 2,
            "plan": {"width": 64, "layers": 2},
            "dump": {"tokens": 8_192, "block_tokens": 1024},
            "correlate": {"draws": 19},
            "clusters": {"bootstraps": 5},
        },
    }
    (directory / "stand-in.yaml").write_text(yaml.safe_dump(stand_in))
    snakemake(
        directory,
        *("--cores", "2", "--configfile", str(ROOT / "config" / "paper.yaml"), f"{directory}/stand-in.yaml"),
        config=None,
    )
    return directory


def test_the_papers_path_ends_in_its_study(paper: Path) -> None:
    metrics = json.loads((paper / "results/neurons/paper_small/metrics.json").read_text())
    assert metrics["neurons_per_model"] == 128
    assert metrics["models"] == 2
    assert 7_000 < metrics["tokens"] < 8_192
    assert metrics["draws"] == 19
    table = pd.read_parquet(paper / "results/neurons/paper_small/neurons.parquet")
    assert table["model"].unique().tolist() == ["a", "b"]
    assert (paper / "results/report/index.html").exists()


def test_no_activations_and_no_products_are_kept(paper: Path) -> None:
    assert not list((paper / "results/neurons/paper_small").rglob("pre"))
    assert not list((paper / "results/neurons/paper_small").rglob("products/**/*.safetensors"))


def test_both_tiles_of_the_pair_are_there(paper: Path) -> None:
    files = (paper / "results/neurons/paper_small/correlations").rglob("*.safetensors")
    assert sorted(f"{f.parent.parent.name}{f.parent.name}{f.stem}" for f in files) == ["abtile-0", "abtile-1"]


def test_dry_run_of_the_papers_configuration_itself(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", config=ROOT / "config" / "paper.yaml")
    text = done.stdout + done.stderr
    assert "neurons_products" in text
    assert not (tmp_path / "data").exists()
