"""Over training: neurons that persist and that are scrambled, and the same excess as the main line finds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Ledger, write_json
from steps.neurons import baseline, checkpoints, dump
from steps.neurons.activations.store import Activations
from steps.neurons.correlations.pairs import load_pairs
from steps.neurons.figures import checkpoints as checkpoints_figure
from steps.neurons.selection.universal import UniversalSettings, describe
from tests.neurons.planted import (
    CONTEXT,
    TOKENIZER,
    VOCABULARY,
    correlate_pair,
    draw_figure,
    save_model,
    write_rows,
    write_tokenizer,
)

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

WIDTH, LAYERS, ROWS = 32, 2, 60
SWAPPED, SCRAMBLED, DEAD = (3, 9), range(WIDTH + 4, WIDTH + 8), WIDTH + 1
EARLY, LAST = 5, 40


def random_model(seed: int) -> GPT2LMHeadModel:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 16, "n_layer": LAYERS, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, n_inner=WIDTH, initializer_range=0.4))
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[:, DEAD - WIDTH] = 0
    return model


def earlier(model: GPT2LMHeadModel, seed: int) -> GPT2LMHeadModel:
    """The same model with two neurons of layer 0 in each other's place and some of layer 1 scrambled."""
    import torch

    model = copy.deepcopy(model)
    i, j = SWAPPED
    with torch.no_grad():
        mlp = model.transformer.h[0].mlp
        for values in (mlp.c_fc.weight.T, mlp.c_fc.bias, mlp.c_proj.weight):
            values[[i, j]] = values[[j, i]]
        mlp = model.transformer.h[1].mlp
        generator = torch.Generator().manual_seed(seed)
        chosen = [n - WIDTH for n in SCRAMBLED]
        mlp.c_fc.weight[:, chosen] = 0.4 * torch.randn((16, len(chosen)), generator=generator)
    return model


def save_trained(folder: Path, last: Any, steps: dict[int, Any], total: int = LAST) -> Path:
    """Write a model with checkpoints as ``language_models.train`` does; returns the ledger."""
    from steps.interp.loading import save

    ledger = Ledger(folder / "ledger.json", "language_model", {"planted": folder.name})
    for step, model in steps.items():
        save(model, ledger, f"checkpoints/step-{step:06d}")
    save(last, ledger)
    write_json(folder / "curve.json", [{"step": total, "tokens": 100 * total}])
    ledger.record("curve.json")
    ledger.finish({"tokenizer": TOKENIZER, "source": "planted"})
    return folder / "ledger.json"


def dumped(folder: Path, model: Path, name: str = "a", **changes: Any) -> Path:
    settings = dump.Settings.model_validate(
        {"tokens": ROWS * CONTEXT, "block_tokens": 20 * CONTEXT, **changes}
    )
    tokenizer = write_tokenizer(folder / "tokenizer")
    rows = write_rows(folder / "rows", ROWS)
    dump.main(model, tokenizer, rows, name, settings, Output(folder / f"dump-{name}" / "ledger.json"))
    return folder / f"dump-{name}" / "ledger.json"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Path]:
    """Three models with one checkpoint each, and the dump of the first."""
    folder = tmp_path_factory.mktemp("trained")
    ledgers = []
    for seed, name in enumerate("abc"):
        last = random_model(seed)
        ledgers.append(save_trained(folder / name, last, {EARLY: earlier(last, seed)}))
    return folder, ledgers, dumped(folder, ledgers[0])


def table_of(planted: tuple[Path, list[Path], Path], **settings: Any) -> pd.DataFrame:
    _, ledgers, like = planted
    chosen = checkpoints.Settings.model_validate({"precision": "float64", "draws": 19, **settings})
    return checkpoints.training_table(ledgers, Activations(like), chosen)


def test_persistent_and_scrambled_neurons(planted: tuple[Path, list[Path], Path]) -> None:
    table = table_of(planted)
    assert table["step"].unique().tolist() == [EARLY, LAST]
    assert table["tokens"].unique().tolist() == [500, 4000]
    early, last = (part.reset_index(drop=True) for _, part in table.groupby("step"))
    number = early["layer"] * WIDTH + early["neuron"]
    assert number.tolist() == list(range(WIDTH * LAYERS))
    moved = [*SWAPPED, *SCRAMBLED]
    stayed = [n for n in range(WIDTH * LAYERS) if n not in (*moved, DEAD)]
    np.testing.assert_allclose(early.loc[stayed, "self_corr"], 1, rtol=0, atol=1e-9)
    assert early.loc[stayed, "best_is_itself"].all()
    assert early.loc[moved, "self_corr"].abs().max() < 0.9
    assert not early.loc[moved, "best_is_itself"].any()
    assert last.drop(index=DEAD)["best_is_itself"].all()
    np.testing.assert_allclose(last.drop(index=DEAD)["self_corr"], 1, rtol=0, atol=1e-9)
    for part in (early, last):
        assert part["constant"].to_numpy().nonzero()[0].tolist() == [DEAD]
        assert not part.loc[DEAD, ["self_corr", "best_is_itself", "mean_corr", "excess_corr"]].any()


def test_every_step_equals_the_main_line(planted: tuple[Path, list[Path], Path], tmp_path: Path) -> None:
    """Each step's models dumped and correlated as ``neurons.dump`` and ``neurons.correlate`` do."""
    table = table_of(planted, seed=4)
    for step, part in table.groupby("step"):
        stores = []
        for seed, name in enumerate("abc"):
            model = random_model(seed)
            if step == EARLY:
                model = earlier(model, seed)
            saved = save_model(tmp_path / str(step) / name, model, {"seed": seed, "step": str(step)})
            stores.append(dumped(tmp_path / str(step), saved, name))
        files = [
            file
            for k, name in ((1, "b"), (2, "c"))
            for file in correlate_pair(
                tmp_path / str(step) / f"with-{name}", stores[0], stores[k], draws=19, seed=4
            )
        ]
        wanted = baseline.excess_table(load_pairs(files), baseline.Settings())
        for column in set(wanted) & set(part):
            values = part[column].to_numpy()
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, wanted[column], rtol=0, atol=1e-10, err_msg=column)
            else:
                np.testing.assert_array_equal(values, wanted[column], err_msg=column)
        assert {"excess_corr", "privileged_basis", "mean_baseline_draws"} <= set(wanted) & set(part)


def test_fewer_tokens_and_float32(planted: tuple[Path, list[Path], Path]) -> None:
    _, ledgers, like = planted
    whole = Activations(like)
    small = checkpoints.InMemory(ledgers[0], None, whole, 100)
    assert (len(small.tokens), small.blocks) == (108, 1)  # 9 rows of 12
    np.testing.assert_array_equal(small.keep, whole.keep[:108])
    np.testing.assert_array_equal(small.pre(1, slice(0, 108)), whole.pre(1, slice(0, 108)))
    exact, rounded = table_of(planted), table_of(planted, precision="float32")
    for column in ("mean_corr", "self_corr"):  # rotations are other random numbers
        np.testing.assert_allclose(rounded[column], exact[column], rtol=0, atol=1e-6)


def test_the_step_writes_table_and_figure(planted: tuple[Path, list[Path], Path], tmp_path: Path) -> None:
    _, ledgers, like = planted
    out = tmp_path / "checkpoints.parquet"
    checkpoints.main(ledgers, like, checkpoints.Settings(draws=19), Output(out))
    table, (svg, data) = pd.read_parquet(out), draw_figure(tmp_path, "checkpoints", [out])
    assert data["tokens"] == [500, 4000]
    assert data["privileged_basis"] == table.groupby("step")["privileged_basis"].sum().tolist()
    assert data["best_is_itself"][0] == pytest.approx(1 - 7 / (WIDTH * LAYERS))
    members = int(table[table["step"] == LAST]["privileged_basis"].sum())
    assert data["set"] == describe("calibrated", 0.05, members)
    assert data["set"] in svg
    assert "excess above 0.5" in svg


@pytest.mark.parametrize(("universal_set", "count"), [("half", 0), ("top_share", 16), ("calibrated", 2)])
def test_the_figure_is_of_the_configured_set(
    planted: tuple[Path, list[Path], Path], universal_set: str, count: int
) -> None:
    table = table_of(planted)
    last = table["step"] == LAST
    table["universal"] = False
    table["privileged_basis"] = last & table["neuron"].isin([SWAPPED[0], 11]) & (table["layer"] == 0)
    settings = UniversalSettings.model_validate({"universal_set": universal_set, "top_share": 0.25})
    figure, data = checkpoints_figure.training_figure(table, settings, 0.5)
    assert data["set"] == describe(settings.universal_set, 0.25, count)
    assert data["set"] in figure.get_suptitle()
    if count == 0:
        assert "self_corr_mean_universal" not in data
        return
    ranked = table[last].nlargest(16, "excess_corr") if count == 16 else table[table["privileged_basis"]]
    early = table[~last].merge(ranked[["layer", "neuron"]], on=["layer", "neuron"])
    assert data["self_corr_mean_universal"] == pytest.approx([early["self_corr"].mean(), 1], abs=1e-9)


def test_models_without_common_checkpoints_are_refused(
    planted: tuple[Path, list[Path], Path], tmp_path: Path
) -> None:
    _, ledgers, like = planted
    source, settings = Activations(like), checkpoints.Settings(draws=1)
    model = random_model(9)
    listed = save_model(tmp_path / "listed", model, {})
    with pytest.raises(UserError, match=r"listed/ledger.json: found no checkpoints.*listed models have none"):
        checkpoints.training_table([ledgers[0], listed], source, settings)
    other = save_trained(tmp_path / "other", model, {EARLY + 1: model})
    with pytest.raises(UserError, match="0 checkpoints in common"):
        checkpoints.training_table([ledgers[0], other], source, settings)
    longer = save_trained(tmp_path / "longer", model, {EARLY: model}, total=2 * LAST)
    with pytest.raises(UserError, match="expected one length"):
        checkpoints.training_table([ledgers[0], longer], source, settings)
    with pytest.raises(UserError, match="not of the model"):
        checkpoints.main(ledgers[::-1], like, settings, Output(tmp_path / "x"))
    copied = save_trained(tmp_path / "copied", random_model(0), {EARLY: model})
    for partner in (ledgers[0], copied):
        with pytest.raises(
            UserError, match=rf"--models: .*a/ledger.json and {partner} hold the same weights"
        ):
            checkpoints.main([*ledgers[:2], partner], like, settings, Output(tmp_path / "x"))
    with pytest.raises(UserError, match="found 1, expected the reference and its partners"):
        checkpoints.main(ledgers[:1], like, settings, Output(tmp_path / "x"))
