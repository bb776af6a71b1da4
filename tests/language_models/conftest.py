"""Small corpora, tokenizers, rows and models for this chapter's tests."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.core.runner import Output
from steps.language_models import rows as rows_step
from steps.language_models import tokenizer as tokenizer_step
from tests.warm import start

ROOT = Path(__file__).resolve().parents[2]

BYTES = tokenizer_step.Settings(vocabulary=258)
"""Of a tokenizer that knows BOS, the bytes, and one pair."""


def write_corpus(path: Path, documents: Iterable[tuple[str, str, str]]) -> Path:
    """Write documents (source, split, text) as the corpus chapter does."""
    columns = list(zip(*documents, strict=True)) or [(), (), ()]
    keys = [str(number) for number in range(len(columns[0]))]
    names = ("document", "source", "split", "text")
    arrays = [pa.array(list(values), pa.string()) for values in (keys, *columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), path)
    return path


def babble(seed: int, words: int) -> str:
    """Text with something to learn: a few words, each followed by one of two others."""
    generator = random.Random(seed)
    lexicon = ["one", " two", " three", " four\n", " five", " six,", " seven", " eight."]
    place, text = 0, []
    for _ in range(words):
        text.append(lexicon[place])
        place = (place + generator.choice((1, 3))) % len(lexicon)
    return "".join(text)


def make_tokenizer(folder: Path, corpus: Path, **settings: Any) -> Path:
    """Train a tokenizer and return its ledger."""
    out = folder / "ledger.json"
    tokenizer_step.main(tokenizer_step.Settings(**settings), Output(out), [corpus])
    return out


def make_rows(folder: Path, corpus: Path, tokenizer: Path, **settings: Any) -> Path:
    """Pack rows and return their ledger."""
    out = folder / "ledger.json"
    rows_step.main(corpus, tokenizer, rows_step.Settings(**settings), Output(out))
    return out


def step(name: str, *arguments: str | Path) -> list[str]:
    """The command line of a step of this chapter."""
    return start.command(f"language_models.{name}", *arguments)


def run_step(name: str, *arguments: str | Path, expect: int = 0) -> str:
    """Run a step of this chapter, as ``tests.warm.start.run`` does."""
    return start.run(f"language_models.{name}", *arguments, expect=expect)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in jobs; more threads than idle cores make small models many times slower."""
    import torch

    torch.set_num_threads(1)


class Prepared:
    """A corpus with its tokenizer and rows."""

    def __init__(self, folder: Path) -> None:
        documents = [
            (f"source {k % 2}", "held_out" if k % 5 == 0 else "train", babble(k, 400)) for k in range(40)
        ]
        self.corpus = write_corpus(folder / "documents.parquet", documents)
        self.tokenizer = make_tokenizer(folder / "tokenizer", self.corpus, vocabulary=300)
        self.rows = make_rows(folder / "rows", self.corpus, self.tokenizer, n_ctx=16)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A small corpus of two sources, its tokenizer and rows of 16 tokens."""
    return Prepared(tmp_path_factory.mktemp("prepared"))


def small_model(vocabulary: int = 300, context: int = 16, seed: int = 0, **config: Any) -> Any:
    """A GPT-2 model of two blocks with weights large enough for every part to matter."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"n_positions": context, "n_embd": 16, "n_layer": 2, "n_head": 2}
    shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, initializer_range=0.3, **{**shape, **ids, **config})
    ).eval()
