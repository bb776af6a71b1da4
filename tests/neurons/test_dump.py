"""The dump of a real (tiny, random) GPT-2: what it holds, and that it survives kills and full disks."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core import errors
from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder, Ledger, read_array
from steps.core.tensors import read_tensors
from steps.interp.pre_activations import PreActivations
from steps.neurons import dump
from steps.neurons.activations.store import Activations, PostActivations, require_comparable
from steps.neurons.dump import Settings
from tests.neurons.planted import (
    CONTEXT,
    TOKENIZER,
    VOCABULARY,
    activate,
    correlate_pair,
    save_model,
    stored_pre,
    write_model,
    write_rows,
    write_tokenizer,
)

ROOT = Path(__file__).resolve().parents[2]
ROWS, BLOCK_ROWS = 20, 3
BLOCKS = 7  # the last one short


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models a, b and strong (that float16 cannot hold), a tokenizer, rows, and more rows."""
    folder = tmp_path_factory.mktemp("made")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "rows", ROWS)
    write_rows(folder / "many", 200)
    write_model(folder / "a", seed=0)
    write_model(folder / "b", seed=1)
    write_model(folder / "strong", seed=0, scale=1e5)
    return folder


def write_dump(made: Path, folder: Path, model: str = "a", rows: str = "rows", **settings: Any) -> Path:
    """Run the step; returns the ledger."""
    usual = {"block_tokens": BLOCK_ROWS * CONTEXT + 1, "tokens": ROWS * CONTEXT}
    chosen = Settings.model_validate({**usual, **settings})
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / "ledger.json"
    inputs = [made / name / "ledger.json" for name in (model, "tokenizer", rows)]
    dump.main(*inputs, model, chosen, Output(ledger))
    return ledger


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def by_hand(model: Path, rows: np.ndarray) -> np.ndarray:
    """Pre-activations ``[layers, tokens, d_mlp]`` of a GPT-2, written out in float64."""
    from safetensors.numpy import load_file

    facts = json.loads((model / "config.json").read_text())
    weights = {
        name.removeprefix("transformer."): values.astype(np.float64)
        for name, values in load_file(model / "model.safetensors").items()
    }

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + facts["layer_norm_epsilon"])
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    heads = facts["n_head"]
    batch, context = rows.shape
    x = weights["wte.weight"][rows] + weights["wpe.weight"][:context]
    future = np.triu(np.full((context, context), -np.inf), 1)
    found = []
    for layer in range(facts["n_layer"]):
        q, k, v = (
            part.reshape(batch, context, heads, -1).transpose(0, 2, 1, 3)
            for part in np.split(linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, axis=-1)
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        if facts["scale_attn_by_inverse_layer_idx"]:
            scores = scores / (layer + 1)
        scores = np.exp(scores + future - (scores + future).max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        x = x + linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"h.{layer}.attn.c_proj")
        pre = linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        found.append(pre.reshape(batch * context, -1))
        x = x + linear(activate(facts["activation_function"], pre), f"h.{layer}.mlp.c_proj")
    return np.stack(found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu", "n_inner": 40},
        {"activation_function": "gelu", "n_layer": 3},
    ],
)
def test_pre_activations_are_those_of_the_model(made: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    shutil.copytree(made, tmp_path / "made")
    write_model(tmp_path / "made" / "c", seed=3, **changes)
    rows = read_array(Folder(made / "rows" / "ledger.json", "rows"), "held_out")
    expected = by_hand(tmp_path / "made" / "c", rows)
    wide = expected.transpose(1, 0, 2).reshape(rows.size, -1)
    for dtype, compute, rtol, atol in (
        ("float32", "float32", 1e-4, 1e-4),
        ("float32", "float64", 1e-7, 1e-7),
        ("float16", "float32", 1e-3, 1e-3),
    ):
        folder = tmp_path / f"{dtype}-{compute}"
        ledger = write_dump(tmp_path / "made", folder, "c", dtype=dtype, compute_dtype=compute)
        source = Activations(ledger)
        assert source.layers == changes.get("n_layer", 2)
        assert source.d_mlp == changes.get("n_inner", 64)
        assert source.activation == changes.get("activation_function", "gelu_new")
        assert (source.n_ctx, source.block_tokens, source.blocks) == (CONTEXT, BLOCK_ROWS * CONTEXT, BLOCKS)
        np.testing.assert_allclose(stored_pre(ledger), wide, rtol=rtol, atol=atol)
        np.testing.assert_array_equal(source.tokens, rows.reshape(-1))
    assert np.abs(expected).max() > 1


def test_excluded_tokens_are_marked(made: Path, tmp_path: Path) -> None:
    rows = read_array(Folder(made / "rows" / "ledger.json", "rows"), "held_out").reshape(-1)
    for settings, ids in (
        ({}, [0, 1]),
        ({"exclude_bos": False}, [1]),
        ({"exclude_tokens": []}, [0]),
        ({"exclude_tokens": [7, "w9", "\n"]}, [0, 1, 7, 9]),
    ):
        ledger = write_dump(made, tmp_path / str(ids), source="model", **settings)
        source = Activations(ledger)
        np.testing.assert_array_equal(source.keep, ~np.isin(rows, ids))
        assert source.store.made_from["exclude"] == ids
        assert source.kept == source.store.attributes["kept"] < len(rows)


def test_in_rows_without_bos_the_first_token_is_left_out(made: Path, tmp_path: Path) -> None:
    write_rows(made / "no bos", ROWS, bos=None)
    rows = read_array(Folder(made / "no bos" / "ledger.json", "rows"), "held_out")
    assert len(set(rows[:, 0])) > 1
    expected = rows != 1
    every, usual = (
        Activations(write_dump(made, tmp_path / name, rows="no bos", source="model", **settings))
        for name, settings in (("every", {"exclude_bos": False}), ("usual", {}))
    )
    assert every.bos is usual.bos is None
    np.testing.assert_array_equal(every.keep, expected.reshape(-1))
    expected[:, 0] = False
    np.testing.assert_array_equal(usual.keep, expected.reshape(-1))
    with pytest.raises(UserError, match="token mask"):
        require_comparable(every, usual, allow_self=True)


def test_a_text_is_every_token_that_stands_for_it(tmp_path: Path) -> None:
    """A tokenizer of Llama 2's kind turns a new line by itself into a blank and a byte."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    words = ["<unk>", "<s>", "\u2581", "<0x0A>", "\n", "<0x20>", "\u2581\u2581", "a", "\u2581a"]
    vocabulary = Tokenizer(
        models.BPE(
            {word: number for number, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True
        )
    )
    vocabulary.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    vocabulary.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    vocabulary.add_special_tokens(["<s>"])
    assert len(vocabulary.encode("\n", add_special_tokens=False).ids) == 2
    ledger = Ledger(tmp_path / "ledger.json", "tokenizer", {}, contents_named=True)
    vocabulary.save(str(ledger.place("tokenizer.json")))
    ledger.record("tokenizer.json")
    ledger.finish({})

    def excluded(*items: int | str) -> list[int]:
        settings = Settings.model_validate({"exclude_tokens": list(items)})
        return dump.excluded_ids(tmp_path / "ledger.json", 1, settings)

    assert dump.excluded_ids(tmp_path / "ledger.json", 1, Settings()) == [1, 3, 4]
    assert excluded(" ", "  ") == [1, 2, 5, 6]
    assert excluded("a", " a", "<s>") == [1, 7, 8]
    assert dump.excluded_ids(tmp_path / "ledger.json", None, Settings()) == [3, 4]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"exclude_tokens": ["w2 w3"]},
            "neurons.dump.exclude_tokens: 'w2 w3' is 2 tokens, expected one; give its id",
        ),
        ({"exclude_tokens": [""]}, "'' is 0 tokens, expected one"),
        ({"exclude_tokens": [VOCABULARY]}, f"found id {VOCABULARY}, expected 0 to {VOCABULARY - 1}"),
        ({"exclude_tokens": [-1]}, "found id -1"),
        ({"exclude_tokens": ["\ud800"]}, r"exclude_tokens: '.ud800' is no text in UTF-8"),
        ({"exclude_tokens": list(range(VOCABULARY))}, "0 of 240 tokens are left after exclusion"),
    ],
)
def test_exclusions_that_make_no_sense_are_refused(
    made: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        write_dump(made, tmp_path / "x", **settings)
    assert contents(tmp_path) == {}


def test_whole_rows_of_the_chosen_split_are_taken(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = Folder(made / "rows" / "ledger.json", "rows")
    for split in ("train", "held_out"):
        source = Activations(
            write_dump(made, tmp_path / split, tokens=CONTEXT * 2 + 1, split=split, source="model")
        )
        np.testing.assert_array_equal(source.tokens, read_array(packed, split)[:3].reshape(-1))
    with caplog.at_level(logging.WARNING):
        source = Activations(write_dump(made, tmp_path / "all", tokens=1000, source="model"))
    assert len(source.tokens) == ROWS * CONTEXT
    assert "1000 tokens requested, 240 available; all are taken" in caplog.text


def test_two_dumps_are_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_dump(made, tmp_path / name)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len([name for name in contents(tmp_path / "1") if name.startswith("pre/c/")]) == 2 * BLOCKS


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_from_the_model_come_the_same_bits(made: Path, tmp_path: Path, dtype: str) -> None:
    """Correlations too, to the last bit."""
    settings = {"dtype": dtype, "batch_tokens": 2 * CONTEXT}
    ledgers = {
        (model, source): write_dump(made, tmp_path / source / model, model, source=source, **settings)
        for model in "ab"
        for source in ("dump", "model")
    }
    sources = [Activations(ledgers["a", kind]) for kind in ("dump", "model")]
    assert not (tmp_path / "model" / "a" / "pre").exists()
    for k in range(BLOCKS):
        for layer in range(2):
            first, second = (source.pre(layer, source.block_slice(k)) for source in sources)
            assert first.dtype == second.dtype == dtype
            assert first.tobytes() == second.tobytes()
    files = [
        correlate_pair(
            tmp_path / kind, ledgers["a", kind], ledgers["b", kind], precision="float32", ranges=2
        )[0]
        for kind in ("dump", "model")
    ]
    (arrays, facts), (others, other_facts) = map(read_tensors, files)
    for name, values in arrays.items():
        assert values.tobytes() == others[name].tobytes(), name
    assert facts.pop("activations") != other_facts.pop("activations")
    assert facts == other_facts


def test_the_model_is_given_the_same_batches_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of other batches may differ in their last bits. Here batches of 2 rows in blocks of 3."""
    from transformers import GPT2Model

    batches: list[int] = []
    forward = GPT2Model.forward

    def counting(self: GPT2Model, rows: Any, **others: Any) -> Any:
        batches.append(len(rows))
        return forward(self, rows, **others)

    monkeypatch.setattr(GPT2Model, "forward", counting)
    settings = {"batch_tokens": 2 * CONTEXT + 5}
    write_dump(made, tmp_path / "dump", **settings)
    assert batches == [2, 1] * (BLOCKS - 1) + [2]
    source = Activations(write_dump(made, tmp_path / "model", source="model", **settings))
    dumped, batches = batches, []
    for k in range(BLOCKS):
        for layer in range(2):
            source.pre(layer, source.block_slice(k))
    assert batches == dumped


def test_a_dump_without_activations_loads_no_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job asks for no GPU; sizes are the same as where the model was loaded."""
    expected = Activations(write_dump(made, tmp_path / "dump"))
    monkeypatch.setattr("steps.interp.loading.load", lambda *_, **__: pytest.fail("loaded"))
    found = Activations(write_dump(made, tmp_path / "model", source="model", device="cuda:99"))
    for name in ("layers", "d_mlp", "activation", "gated", "weights"):
        assert found.store.attributes[name] == expected.store.attributes[name]


def test_blocks_that_were_left_out_are_computed_again(made: Path, tmp_path: Path) -> None:
    """A dump restored without its blocks, as DVC does, still gives its values."""
    ledger = write_dump(made, tmp_path / "x", batch_tokens=2 * CONTEXT)
    post = PostActivations(Activations(ledger), "float32")
    expected = [post.block(k).clone().numpy() for k in range(BLOCKS)]
    shutil.rmtree(tmp_path / "x" / "pre")
    post = PostActivations(Activations(ledger), "float32")
    for k in range(BLOCKS):
        np.testing.assert_array_equal(post.block(k), expected[k])


def test_a_model_that_changed_or_is_gone_is_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    ledger = write_dump(tmp_path / "made", tmp_path / "x", source="model")
    shutil.copytree(made / "b", tmp_path / "made" / "a", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"a/ledger.json: the model changed after .*x/ledger.json; rebuild"):
        PostActivations(Activations(ledger), "float32")
    shutil.rmtree(tmp_path / "made" / "a")
    with pytest.raises(UserError, match=r"a/ledger.json: missing; build it with snakemake"):
        PostActivations(Activations(ledger), "float32")


def test_what_half_precision_cannot_hold_is_refused(made: Path, tmp_path: Path) -> None:
    said = r"strong/ledger.json: .* beyond float16; set neurons.dump.dtype to float32"
    with pytest.raises(UserError, match=said) as error:
        write_dump(made, tmp_path / "x", "strong")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x" / "ledger.json").exists()
    pre = stored_pre(write_dump(made, tmp_path / "y", "strong", dtype="float32"))
    assert np.isfinite(pre).all()
    assert np.abs(pre).max() > 65504


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, dtype: str) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=4, n_embd=8, n_layer=1, n_head=1)).eval()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.bias[3] = value
    with pytest.raises(UserError, match="GPT2LMHeadModel: a .* in layer 0 is beyond .*; its weights"):
        PreActivations.of(model, dtype)(np.zeros((2, 4), np.int32))


def test_the_same_weights_in_another_configuration_or_dtype_are_noticed(made: Path, tmp_path: Path) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    shutil.copytree(made, tmp_path / "made")
    for name, dtype, changes in (
        ("dropout", torch.float32, {"attn_pdrop": 0.5}),
        ("half", torch.float16, {}),
        ("brain", torch.bfloat16, {}),
    ):
        model = GPT2LMHeadModel.from_pretrained(made / "a", dtype=dtype)
        model.config.update(changes)
        save_model(tmp_path / "made" / name, model, {"saved": name})
    ledgers = {
        name: write_dump(tmp_path / "made", tmp_path / name, name, source="model")
        for name in ("a", "b", "dropout", "half", "brain")
    }
    sources = {name: Activations(ledger) for name, ledger in ledgers.items()}
    for name in ("dropout", "half", "brain"):
        assert sources[name].store.made_from["model"] != sources["a"].store.made_from["model"]
        with pytest.raises(UserError, match="both hold the same weights"):
            require_comparable(sources["a"], sources[name])
        require_comparable(sources["a"], sources[name], allow_self=True)
        require_comparable(sources["b"], sources[name])


def test_rows_model_and_tokenizer_must_belong_together(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    for name, kind in (("rows", "rows"), ("a", "language_model")):
        ledger = tmp_path / "made" / name / "ledger.json"
        whole = ledger.read_text()
        ledger.write_text(whole.replace(TOKENIZER, "0" * 64))
        with pytest.raises(UserError, match=rf"{name}/ledger.json: of another tokenizer than .*; delete it"):
            write_dump(tmp_path / "made", tmp_path / kind)
        ledger.write_text(whole)
    write_tokenizer(tmp_path / "made" / "tokenizer", "other")
    with pytest.raises(UserError, match=r"rows/ledger.json: of another tokenizer than"):
        write_dump(tmp_path / "made", tmp_path / "x")


def test_rows_that_are_too_long_for_the_model_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    write_model(tmp_path / "made" / "short", n_positions=CONTEXT - 1)
    with pytest.raises(UserError, match=rf"rows of {CONTEXT} tokens, expected at most {CONTEXT - 1}"):
        write_dump(tmp_path / "made", tmp_path / "x", "short")


def test_a_block_is_no_longer_than_the_rows(made: Path, tmp_path: Path) -> None:
    source = Activations(write_dump(made, tmp_path / "x", block_tokens=2**24))
    assert source.block_tokens == ROWS * CONTEXT
    with pytest.raises(ValueError, match="less than or equal to 16777216"):
        write_dump(made, tmp_path / "y", block_tokens=10**30)


@pytest.mark.parametrize("source", ["dump", "model"])
def test_an_excerpt_takes_its_row_alone_through_the_model(
    made: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2Model

    dumped = Activations(write_dump(made, tmp_path / "dump", dtype="float32"))
    asked = Activations(write_dump(made, tmp_path / source, source=source, dtype="float32"))
    batches: list[tuple[int, ...]] = []
    forward = GPT2Model.forward

    def counting(self: GPT2Model, rows: Any, **others: Any) -> Any:
        batches.append(tuple(rows.shape))
        return forward(self, rows, **others)

    monkeypatch.setattr(GPT2Model, "forward", counting)
    for start, stop in ((CONTEXT * 4 + 2, CONTEXT * 4 + 7), (CONTEXT, 2 * CONTEXT)):
        for layer in range(2):
            where = slice(start, stop)
            (found,) = asked.excerpt(layer, where)
            np.testing.assert_allclose(found, dumped.pre(layer, where), rtol=1e-4, atol=1e-4)
    assert set(batches) == ({(1, CONTEXT)} if source == "model" else set())


def test_models_without_weights_and_other_folders_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    (tmp_path / "made" / "a" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"a/model.safetensors: missing"):
        write_dump(tmp_path / "made", tmp_path / "x")
    with pytest.raises(UserError, match="expected a ledger of kind 'language_model', found 'tokenizer'"):
        write_dump(tmp_path / "made", tmp_path / "x", "tokenizer")
    with pytest.raises(UserError, match="expected a ledger of kind 'rows', found 'language_model'"):
        write_dump(tmp_path / "made", tmp_path / "x", "b", rows="b")
    assert contents(tmp_path / "x") == {}


def test_a_folder_of_somebody_else_is_refused_and_kept(made: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds 'notes.txt', which no step made; move it away"):
        write_dump(made, tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"precious"}


def test_a_mistake_that_is_noticed_late_costs_no_finished_dump(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dump(made, tmp_path / "x")
    before = contents(tmp_path / "x")
    with pytest.raises(UserError, match="device: found 'cuda:99'"):
        write_dump(made, tmp_path / "x", device="cuda:99")
    assert contents(tmp_path / "x") == before
    old = sum(len(data) for name, data in before.items() if name != ".finished.jsonl")
    need = 2 * ROWS * CONTEXT * 64 * 4
    free = need + need // 100 - old - 1000

    def usage(path: Path) -> Any:
        return shutil._ntuple_diskusage(10**9, 10**9 - free, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(errors.shutil, "disk_usage", usage)
    with pytest.raises(UserError, match="free some space or lower neurons.dump.tokens"):
        write_dump(made, tmp_path / "x", dtype="float32")
    assert contents(tmp_path / "x") == before
    free += 2000  # with the old dump gone, the new one fits
    write_dump(made, tmp_path / "x", dtype="float32")


def test_blocks_of_other_settings_are_not_reused(made: Path, tmp_path: Path) -> None:
    write_dump(made, tmp_path / "x")
    for changes in (
        {"dtype": "float32"},
        {"tokens": 100},
        {"exclude_tokens": [5]},
        {"block_tokens": 2 * CONTEXT},
        {"codec": "none"},
        {"model": "b"},
        {"rows": "many", "tokens": 300},
        {"source": "model"},
    ):
        write_dump(made, tmp_path / "x", **changes)
        write_dump(made, tmp_path / "fresh", **changes)
        assert contents(tmp_path / "x") == contents(tmp_path / "fresh")
        shutil.rmtree(tmp_path / "fresh")


def test_only_missing_blocks_are_computed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dump(made, tmp_path / "x")
    expected = contents(tmp_path / "x")
    shards = tmp_path / "x" / "pre" / "c"
    (shards / "0" / "2" / "0").unlink()
    altered = shards / "1" / "4" / "0"
    altered.write_bytes(bytes(byte ^ 1 for byte in altered.read_bytes()))
    times = {
        path: path.stat().st_mtime_ns for path in shards.rglob("0") if path.is_file() and path != altered
    }
    computed = []
    forward = PreActivations.__call__

    def counting(self: PreActivations, rows: np.ndarray) -> object:
        computed.append(len(rows))
        return forward(self, rows)

    monkeypatch.setattr(PreActivations, "__call__", counting)
    write_dump(made, tmp_path / "x")
    assert contents(tmp_path / "x") == expected
    assert computed == [BLOCK_ROWS, BLOCK_ROWS]
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert len(times) == 2 * BLOCKS - 2


def test_a_disk_that_is_too_small_is_refused_beforehand(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 2 * ROWS * CONTEXT * 64 * 2
    free = need

    def usage(path: Path) -> Any:
        return shutil._ntuple_diskusage(10**9, 10**9 - free, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(errors.shutil, "disk_usage", usage)
    with pytest.raises(UserError, match=r"needs about 61.4 kB, found 61.4 kB free; .*source to model"):
        write_dump(made, tmp_path / "x")
    assert not (tmp_path / "x" / "pre").exists()
    write_dump(made, tmp_path / "model", source="model")  # the remedy
    free = need + need // 50
    write_dump(made, tmp_path / "x")
    free = 0
    write_dump(made, tmp_path / "x")  # nothing is left to be written


# Killed, and on a disk that fills. One process imports what is heavy, each trial is a fork of it.

TRIALS = r'''
import contextlib, json, os, signal, sys, traceback
from pathlib import Path

import numpy, tokenizers, torch, zarr
from transformers import GPT2LMHeadModel

from steps.core import runner, stores
from steps.interp import loading
from steps.neurons import dump

PLAN, SAID, BALLAST = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, wanted, action=die):
    """Call ``action`` before the call of ``owner.name`` whose arguments ``wanted`` accepts."""
    original = getattr(owner, name)

    def patched(*arguments, **others):
        if wanted(*arguments):
            action()
        return original(*arguments, **others)

    setattr(owner, name, patched)


def half_a_block(self, index, values):
    write_block(self, index, values)
    if index == (1, 2, 0):
        path = self.ledger.folder / self.name / "c/1/2/0"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        lines = (self.ledger.folder / ".finished.jsonl").read_text().splitlines(True)
        (self.ledger.folder / ".finished.jsonl").write_text("".join(lines[:-1]))
        die()


def half_a_note(self, name):
    record(self, name)
    if name == "pre/c/1/2/0":
        text = (self.folder / ".finished.jsonl").read_text()
        (self.folder / ".finished.jsonl").write_text(text[:-40])
        die()


def fill():
    """Take all the space that is left."""
    with contextlib.suppress(OSError), BALLAST.open("wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass


write_block, record = stores.ArrayWriter.write, stores.Ledger.record
is_block = lambda self, index, *_: self.name == "pre" and index == (0, 3, 0)


def prepare(point):
    ends = lambda text: lambda source, *_: str(source).endswith(text)
    if point == "before the first note":
        before(os, "replace", ends(".finished.jsonl.writing"))
    if point == "before the array is noted":
        before(stores.Ledger, "record", lambda self, name: name == "pre/zarr.json")
    if point == "before a block is noted":
        before(stores.Ledger, "record", lambda self, name: name == "pre/c/1/2/0")
    if point == "while zarr writes a block":
        before(Path, "replace", lambda source, target: str(target).endswith("pre/c/1/2/0"))
    if point == "half a block is there":
        stores.ArrayWriter.write = half_a_block
    if point == "half a note is there":
        stores.Ledger.record = half_a_note
    if point == "before the last note":
        before(stores.Ledger, "finish", lambda *_: True)
    if point == "before the ledger":
        before(os, "replace", ends(".ledger.json.part.writing"))
    if point == "before the ledger has its name":
        before(os, "replace", ends(".ledger.json.part"))
    if point == "the disk fills":
        before(stores.ArrayWriter, "write", is_block, fill)


results = []
for point, arguments in PLAN:
    folder = Path(arguments[arguments.index("--out") + 1]).parent
    if point == "ballast is taken away":
        BALLAST.unlink()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 1
        try:
            prepare(point)
            sys.argv = ["dump", *arguments]
            runner.run(dump.main)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    left = {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*") if path.is_file()
    }
    results.append({"code": os.waitstatus_to_exitcode(status), "said": SAID.read_text(), "left": left})
print(json.dumps(results))
'''

KILLS = [
    "before the first note",
    "before the array is noted",
    "before a block is noted",
    "while zarr writes a block",
    "half a block is there",
    "half a note is there",
    "before the last note",
    "before the ledger",
    "before the ledger has its name",
]


def try_out(
    made: Path, folder: Path, trials: list[tuple[str, Path]], rows: str, **settings: Any
) -> list[Any]:
    """Run the step once per trial: what is to happen meanwhile, and the folder that it writes."""
    text = json.dumps(settings)
    plan = [
        (
            point,
            [
                *("--model", str(made / "a/ledger.json"), "--tokenizer", str(made / "tokenizer/ledger.json")),
                *("--rows", str(made / rows / "ledger.json"), "--name", "a", "--settings", text),
                *("--out", str(out / "ledger.json")),
            ],
        )
        for point, out in trials
    ]
    (folder / "trials.py").write_text(TRIALS)
    done = subprocess.run(
        [
            *(sys.executable, str(folder / "trials.py"), json.dumps(plan)),
            *(str(folder / "said"), str(folder / "disk" / "ballast")),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    results: list[Any] = json.loads(done.stdout)
    return results


@pytest.fixture(scope="module")
def killed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Any]]]:
    """What happened when killed at each moment, and when started again."""
    folder = tmp_path_factory.mktemp("killed")
    trials = [("", folder / "undisturbed")]
    trials += [(moment, folder / point) for point in KILLS for moment in (point, "")]
    trials += [(point, folder / "again and again") for point in [*KILLS[2:8:2], KILLS[0], ""]]
    results = try_out(made, folder, trials, "rows", tokens=ROWS * CONTEXT, block_tokens=BLOCK_ROWS * CONTEXT)
    assert results[0]["code"] == 0, results[0]["said"]
    found = {point: results[2 * n + 1 : 2 * n + 3] for n, point in enumerate(KILLS)}
    return folder, {**found, "again and again": results[2 * len(KILLS) + 1 :]}


@pytest.mark.parametrize("point", KILLS)
def test_killed_at_any_moment_it_ends_as_if_undisturbed(
    killed: tuple[Path, dict[str, list[Any]]], point: str
) -> None:
    folder, results = killed
    first, last = results[point]
    assert first["code"] == -9, first["said"]
    assert last["code"] == 0, last["said"]
    assert "ledger.json" not in first["left"]
    assert contents(folder / point) == contents(folder / "undisturbed")
    blocks = {name: time for name, time in first["left"].items() if name.startswith("pre/c/")}
    kept = [name for name, time in blocks.items() if last["left"].get(name) == time]
    if point in KILLS[2:6]:  # five blocks were whole, the sixth is made again
        assert sorted(kept) == sorted(f"pre/c/{layer}/{k}/0" for layer, k in np.ndindex(2, 3))[:5]
    elif point in KILLS[6:]:
        assert len(kept) == 2 * BLOCKS


def test_killed_again_and_again_it_ends_as_if_undisturbed(killed: tuple[Path, dict[str, list[Any]]]) -> None:
    folder, results = killed
    *kills, last = results["again and again"]
    assert [trial["code"] for trial in kills] == [-9] * 4
    assert last["code"] == 0, last["said"]
    assert contents(folder / "again and again") == contents(folder / "undisturbed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_refused_beforehand_and_costs_nothing_when_it_fills_meanwhile(
    made: Path, tmp_path: Path, small_disk: Path
) -> None:
    settings = {"tokens": 200 * CONTEXT, "block_tokens": 40 * CONTEXT, "codec": "none"}
    (small_disk / "ballast").write_bytes(bytes(600_000))
    x, undisturbed = small_disk / "x", tmp_path / "other" / "x"
    results = try_out(
        made,
        tmp_path,
        [
            *(("", x), ("ballast is taken away", undisturbed)),
            *(("the disk fills", x), ("", x), ("ballast is taken away", x)),
        ],
        "many",
        **settings,
    )
    refused, whole, full, still_full, resumed = results
    assert [result["code"] for result in results] == [2, 0, 2, 2, 0], results
    for failed in (refused, full, still_full):
        assert failed["said"].count("\n") == 1, failed["said"]
        assert "ledger.json" not in failed["left"]
    assert "needs about 614.4 kB" in refused["said"]
    assert "free some space or lower neurons.dump.tokens or set neurons.dump.source" in refused["said"]
    assert not any(name.startswith("pre") for name in refused["left"])
    assert "no space left on the disk; free some space and start again" in full["said"]
    assert contents(x) == contents(undisturbed)
    assert len(whole["left"]) == len(resumed["left"])
    for layer, k in np.ndindex(2, 3):  # whole before the disk was full, and kept
        name = f"pre/c/{layer}/{k}/0"
        assert full["left"][name] == still_full["left"][name] == resumed["left"][name]
