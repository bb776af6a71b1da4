"""Real models of every architecture, saved to disk, through the steps that read activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steps.core.runner import Output
from steps.core.stores import Ledger, write_array
from steps.core.tensors import read_tensors
from steps.neurons import (
    attention,
    baseline,
    clusters,
    correlate,
    dump,
    intervene,
    moments,
    roles,
    table,
    weights,
)
from steps.neurons.activations.store import Activations, PostActivations
from steps.neurons.correlations import moments as moments_library
from steps.neurons.explanations import text as explained_text
from tests.language_models.tiny_models import SHAPES, keep, tiny_model
from tests.neurons.planted import (
    CONTEXT,
    TOKENIZER,
    VOCABULARY,
    draw_figure,
    rows_of,
    stored_pre,
    write_explanations,
    write_histograms,
    write_tokenizer,
)

ROWS = 60

# Of transformers' own modules: what the neurons' inputs are, and what takes their values.
MODULES = {
    "gpt2": ("mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "llama": ("mlp.gate_proj", "mlp.down_proj"),
    "qwen2": ("mlp.gate_proj", "mlp.down_proj"),
}


def write_labelled(folder: Path, rows: np.ndarray) -> Path:
    """Rows of tokens that are prose and code in turn."""
    ledger = Ledger(folder / "ledger.json", "rows", {"rows": rows.tolist()})
    write_array(ledger, "held_out", rows, ("row", "position"))
    labels = np.arange(len(rows)).astype(np.uint16) % 2
    write_array(ledger, "held_out_source", labels, ("row",))
    facts = {"n_ctx": CONTEXT, "bos": 0, "vocabulary": VOCABULARY, "sources": ["code", "prose"]}
    ledger.finish({**facts, "tokenizer": TOKENIZER})
    return folder / "ledger.json"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_tokenizer(folder / "tokenizer")
    write_labelled(folder / "rows", rows_of(ROWS, VOCABULARY))
    return folder


def heard(model: Any, shape: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """What hooks hear in one pass: neurons' inputs and values ``[tokens, neurons]``, and the logits."""
    inputs_of: list[torch.Tensor] = []
    values_of: list[torch.Tensor] = []
    before, after = MODULES[SHAPES[shape][0]]
    handles = []
    for name, module in model.named_modules():
        if name.endswith(before):
            handles.append(module.register_forward_hook(lambda m, inputs, output: inputs_of.append(output)))
        if name.endswith(after):
            handles.append(module.register_forward_pre_hook(lambda m, inputs: values_of.append(inputs[0])))
    with torch.inference_mode():
        logits = model(torch.from_numpy(rows).long(), use_cache=False).logits
    for handle in handles:
        handle.remove()
    pre, post = (
        torch.cat([part.flatten(0, 1) for part in found], 1).numpy() for found in (inputs_of, values_of)
    )
    return pre, post, logits


def write_dump(folder: Path, text: Path, model: Path, name: str, **settings: Any) -> Path:
    (folder / name).mkdir(parents=True)
    chosen = dump.Settings.model_validate(
        {"tokens": ROWS * CONTEXT, "block_tokens": 20 * CONTEXT, **settings}
    )
    inputs = model, text / "tokenizer" / "ledger.json", text / "rows" / "ledger.json"
    dump.main(*inputs, name, chosen, Output(folder / name / "ledger.json"))
    return folder / name / "ledger.json"


@pytest.mark.parametrize("source", ["dump", "model"])
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_the_mlps_compute(text: Path, tmp_path: Path, shape: str, source: str) -> None:
    model = tiny_model(shape, vocabulary=VOCABULARY)
    ledger = keep(tmp_path / "model", model, TOKENIZER)
    rows = rows_of(ROWS, VOCABULARY)
    pre, post, _ = heard(model, shape, rows)
    assert np.abs(post).max() > 0.5
    for dtype, atol in (("float32", 1e-4), ("float16", 2e-2)):
        kind: dict[str, Any] = {"source": source, "dtype": dtype, "exclude_bos": False, "exclude_tokens": []}
        made = Activations(write_dump(tmp_path / dtype, text, ledger, "a", **kind))
        assert (made.layers, made.d_mlp, made.gated) == (3, 24, SHAPES[shape][0] in ("llama", "qwen2"))
        values = PostActivations(made, "float32")
        found = np.concatenate([values.block(k).numpy() + values.pilot for k in range(made.blocks)])
        np.testing.assert_allclose(found, post, rtol=5e-3 if dtype == "float16" else 1e-4, atol=atol)
        if source == "dump":
            stored = stored_pre(tmp_path / dtype / "a" / "ledger.json")
            np.testing.assert_allclose(stored, pre, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_stops_after_the_layers_that_are_read(text: Path, tmp_path: Path, shape: str) -> None:
    ledger = keep(tmp_path / "model", tiny_model(shape, vocabulary=VOCABULARY), TOKENIZER)
    made = write_dump(tmp_path, text, ledger, "a", source="model", batch_tokens=8 * CONTEXT)
    whole, first = Activations(made), Activations(made)
    first.depth = 2
    ran: list[str] = []
    for name, module in first._network().model.named_modules():
        if name.endswith(MODULES[SHAPES[shape][0]][0]):
            module.register_forward_hook(lambda m, inputs, output, name=name: ran.append(name))
    block = whole.block_slice(1)
    for layer in (1, 0):
        for values, expected in zip(first.stored(layer, block), whole.stored(layer, block), strict=True):
            assert values.tobytes() == expected.tobytes()
    assert len(ran) == 3 * 2  # three batches, two layers, once
    for values, expected in zip(first.stored(2, block), whole.stored(2, block), strict=True):
        assert values.tobytes() == expected.tobytes()
    assert len(ran) == 3 * 2 + 3 * 3


@pytest.mark.parametrize("shape", ["gpt_neox", "llama", "qwen2"])
def test_the_chapters_steps_agree_with_hooks_on_the_model(text: Path, tmp_path: Path, shape: str) -> None:
    """A parallel and gated models, from the dump to interventions; two seeds, for what compares models."""
    ledgers, sums, saved = [], [], []
    for seed, name in enumerate("ab"):
        model = tiny_model(shape, vocabulary=VOCABULARY, seed=seed)
        saved.append(keep(tmp_path / "models" / name, model, TOKENIZER))
        ledgers.append(write_dump(tmp_path / "activations", text, saved[-1], name, dtype="float32"))
        sums.append(Output(tmp_path / f"moments-{name}"))
        moments.main(ledgers[-1], 1, 0, moments.Settings(), sums[-1])
    model, rows = tiny_model(shape, vocabulary=VOCABULARY), rows_of(ROWS, VOCABULARY)
    _, post, logits = heard(model, shape, rows)

    def out(name: str) -> Output:
        return Output(tmp_path / name)

    source = Activations(ledgers[0])
    own = moments_library.Moments([Path(sums[0])], source)
    np.testing.assert_allclose(own.mean + own.arrays["pilot"], post[source.keep].mean(0), atol=1e-4)

    words = text / "tokenizer" / "ledger.json"
    labelled = text / "rows" / "ledger.json"
    write_explanations(
        tmp_path, ledgers, list(map(Path, sums)), saved, labelled, words, explained_text.Settings()
    )
    profiles = read_tensors(tmp_path / "profiles")[0]
    by_position = post.reshape(ROWS, CONTEXT, -1)
    np.testing.assert_allclose(profiles["a.position_mean"], by_position.mean(0).T, atol=1e-4)
    np.testing.assert_allclose(profiles["a.position_std"], by_position.std(0).T, atol=5e-3)

    write_histograms(tmp_path, ledgers, labelled)
    correlate.main(*ledgers, [sums[0]], [sums[1]], [], 1, 0, correlate.Settings(draws=19), out("ab"))
    baseline.main([out("ab")], baseline.Settings(), out("excess"))
    clusters.main([out("ab")], ledgers, clusters.Settings(bootstraps=2), out("clusters"), out("edges"))
    weights.main(saved, words, weights.Settings(), out("weights"), out("effects"))
    tables = [out("excess"), out("clusters"), out("neurons"), out("examples"), [out("weights")]]
    table.main(ledgers, sums, out("histograms/ledger.json"), [out("ab")], *tables)
    of_roles = [out("roles.parquet"), out("depth.parquet")]
    roles.main(out("weights"), [out("neurons")], roles.Settings(), *of_roles)

    named = [(0, 5, 2, 1)]
    settings = attention.Settings(rows=ROWS, destinations=10**6, random=10, named=named, strongest=2)
    heads = [out(f"attention_{name}.parquet") for name in ("heads", "neurons", "pairs")]
    heads += [out("attention.safetensors"), out("attention.json")]
    attention.main(saved[0], ledgers[0], settings, *heads)
    first = draw_figure(tmp_path, "attention", heads)[1]["pairs"][0]
    assert first["pair"] == list(named[0])
    expected = by_position[:, CONTEXT // 2 :, 5].reshape(-1)
    np.testing.assert_allclose(np.sort(first["activation"]), np.sort(expected), atol=1e-4)

    changed = [out(f"{name}.parquet") for name in ("interventions", "reversals", "suppression")]
    changed.append(out("interventions.safetensors"))
    chosen = intervene.Settings(rows=ROWS, values=[0, 3], named=[(1, 7)], controls=2, ablated=2)
    inputs = saved[0], ledgers[0], out("neurons"), of_roles[0], words
    intervene.main(*inputs, chosen, *changed)
    for name in ("interventions", "suppression", "roles_by_depth"):
        draw_figure(tmp_path, name, [*changed, *of_roles])
    found = pd.read_parquet(changed[0])
    log_p = logits.log_softmax(-1)[:, 1:-1].reshape(-1, VOCABULARY)
    loss = -log_p.gather(1, torch.from_numpy(rows[:, 2:]).reshape(-1, 1).long()).mean()
    assert found["loss"][0] == pytest.approx(float(loss), rel=1e-4)
    fixed = found[(found["layer"] == 1) & (found["neuron"] == 7) & (found["kind"] == "fixed")]
    down = [m for name, m in model.named_modules() if name.endswith(MODULES[SHAPES[shape][0]][1])][1]

    for _, row in fixed.iterrows():

        def fix(module: Any, inputs: tuple[torch.Tensor, ...], value: float = row["value"]) -> Any:
            values = inputs[0].clone()
            values[..., 7] = value
            return (values,)

        with torch.inference_mode():
            handle = down.register_forward_pre_hook(fix)
            log_p = model(torch.from_numpy(rows).long(), use_cache=False).logits.log_softmax(-1)[:, 1:-1]
            handle.remove()
        loss = -log_p.gather(-1, torch.from_numpy(rows[:, 2:, None]).long()).mean()
        assert row["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert len(fixed) == 2
