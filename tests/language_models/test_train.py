"""Training: learns what is planted, is the same each time, and survives kills."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.core import provenance
from steps.core.errors import UserError
from steps.core.settings import validate
from steps.core.stores import Folder, Ledger, read_array
from steps.core.training import Training
from steps.interp import loading
from steps.language_models.learning import loop
from steps.language_models.learning.loop import STATE, Settings
from steps.language_models.learning.losses import loss_of
from tests.language_models.conftest import Prepared, run_step, small_model, step
from tests.warm.start import environment, kill_at_the_next_state

SMALL = {
    "d_model": 16,
    "tokens": 6000,
    "batch_rows": 4,
    "checkpoints": 3,
    "evaluations": 3,
    "evaluation_rows": 8,
}


def arguments(prepared: Prepared, out: Path, seed: int = 1, **settings: Any) -> list[str]:
    return [
        *("--rows", str(prepared.rows), "--tokenizer", str(prepared.tokenizer), "--seed", str(seed)),
        *("--settings", json.dumps({**SMALL, **settings}), "--out", str(out / "ledger.json")),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "seed-1"
    run_step("train", *arguments(prepared, folder, dropout=0.1))
    return folder


def test_killed_twice_it_ends_with_the_same_bytes(
    prepared: Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "seed-1"
    options = arguments(prepared, folder, dropout=0.1, save_seconds=0)
    state = folder / STATE
    for _ in range(2):
        kill_at_the_next_state(step("train", *options), state)
        assert not (folder / "ledger.json").exists()
    assert "resuming after step" in run_step("train", *options)
    assert contents(folder) == contents(undisturbed)


def test_killed_before_its_state_is_removed_it_leaves_none(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Training) -> None:
        raise KeyboardInterrupt

    tokens = read_array(Folder(prepared.rows, "rows"), "train")
    settings = Settings(**{**SMALL, "tokens": 600})
    config = loop.configuration(settings, Folder(prepared.rows, "rows").attributes["vocabulary"], 16, 0)

    def train() -> None:
        ledger = Ledger(tmp_path / "ledger.json", "language_model", {"seed": 1})
        loop.train(tokens, tokens, config, 1, settings, ledger)

    monkeypatch.setattr(Training, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.undo()
    assert (tmp_path / STATE).exists()
    assert (tmp_path / loop.CURVE).exists()
    train()
    assert not (tmp_path / STATE).exists()


def test_two_trainings_of_one_folder_come_one_after_the_other(
    prepared: Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    """The ledger of the second once lacked the checkpoints that the first made meanwhile."""
    folder = tmp_path / "seed-1"
    command = step("train", *arguments(prepared, folder, dropout=0.1, save_seconds=0))
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment(warm=False))
    while first.poll() is None and not (folder / STATE).exists():
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as second:
        assert second.stderr is not None
        waits = "waiting for another job that writes it: steps.language_models.train"
        assert waits in second.stderr.readline()
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
        assert "steps of seed" not in second.stderr.read()
    assert second.returncode == 0
    assert contents(folder) == contents(undisturbed)
    Folder(folder / "ledger.json", "language_model").check_all()


def test_what_a_trained_folder_holds(prepared: Prepared, undisturbed: Path) -> None:
    folder = Folder(undisturbed / "ledger.json", "language_model").check_all()
    assert folder.attributes["tokenizer"] == Folder(prepared.tokenizer, "tokenizer").fingerprint
    assert folder.attributes["source"]["seed"] == 1
    curve = json.loads((undisturbed / "curve.json").read_text())
    assert curve[-1] == {**curve[-1], "step": 100, "tokens": 6000}
    assert folder.attributes["training_tokens"] == 6000
    evaluated = {
        point["step"]: point["held_out_loss"] for point in curve if point["held_out_loss"] is not None
    }
    assert list(evaluated) == [33, 67, 100]
    model = loading.load(folder.path)
    held_out = read_array(Folder(prepared.rows, "rows"), "held_out")[:8]
    assert loss_of(model, held_out).mean == pytest.approx(evaluated[100], rel=1e-5)
    early = loading.load(folder.path, checkpoint="checkpoints/step-000005")
    assert loss_of(early, held_out).mean > loss_of(model, held_out).mean
    assert not (undisturbed / STATE).exists()


def test_in_memory_the_same_seed_gives_the_same_bits_and_another_does_not(
    prepared: Prepared, tmp_path: Path
) -> None:
    rows = Folder(prepared.rows, "rows")
    tokens = read_array(rows, "train")
    settings = Settings(**{**SMALL, "tokens": 600})
    config = loop.configuration(settings, rows.attributes["vocabulary"], 16, 0)
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ledger = Ledger(tmp_path / name / "ledger.json", "language_model", {"seed": seed})
        loop.train(tokens, tokens, config, seed, settings, ledger)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("version", "said"), [("0.1", "libraries; training starts again"), (None, "resuming after step")]
)
def test_a_training_goes_on_with_the_versions_that_began_it_only(
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str | None,
    said: str,
) -> None:
    tokens = read_array(Folder(prepared.rows, "rows"), "train")
    settings = Settings(**{**SMALL, "tokens": 600, "save_seconds": 0})
    config = loop.configuration(settings, Folder(prepared.rows, "rows").attributes["vocabulary"], 16, 0)

    def begin() -> None:
        ledger = Ledger(tmp_path / "ledger.json", "language_model", {}, ("torch",))
        loop.train(tokens, tokens, config, 1, settings, ledger)

    def stop(loss: float, kind: str, step: int, total: int, remedy: str) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "require_finite", stop)
        with pytest.raises(KeyboardInterrupt):
            begin()
    if version is not None:
        monkeypatch.setattr(provenance, "_installed", {"torch": version}.get)
    with caplog.at_level("INFO", "reprise"):
        begin()
    assert said in caplog.text


def test_it_learns_what_is_there_to_learn(tmp_path: Path) -> None:
    start = np.arange(400)[:, None]
    rows = ((start + np.arange(16)) % 7 + 1).astype(np.int32)
    rows[:, 0] = 0
    settings = Settings(d_model=16, tokens=36_000, batch_rows=16, rate=1e-2, checkpoints=0)
    config = loop.configuration(settings, 8, 16, 0)
    ledger = Ledger(tmp_path / "ledger.json", "language_model", {})
    curve = loop.train(rows[:300], rows[300:], config, 1, settings, ledger)
    # the first token of a row cannot be known, all others follow from it
    assert curve[-1]["held_out_loss"] == pytest.approx(np.log(7) / 15, abs=0.03)


def test_a_step_is_that_of_plain_torch() -> None:
    rows = torch.randint(0, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    mine, theirs = small_model(), small_model()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (mine, theirs)]
    one_step = loop.step_function(mine.train(), optimizers[0], clip=0.5)
    theirs.train()
    for _ in range(3):
        loss = one_step(rows)
        expected = theirs(rows, labels=rows).loss
        expected.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizers[1].step()
        optimizers[1].zero_grad()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-5)
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_the_flag_of_stanfords_models_reaches_the_configuration() -> None:
    assert loop.configuration(
        Settings(scale_attention_by_layer=True), 9, 8, 0
    ).scale_attn_by_inverse_layer_idx
    assert not loop.configuration(Settings(), 9, 8, 0).scale_attn_by_inverse_layer_idx


def test_rows_of_another_tokenizer_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    for path in prepared.tokenizer.parent.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    ledger = other / "ledger.json"
    fingerprint = Folder(prepared.tokenizer, "tokenizer").fingerprint
    ledger.write_text(ledger.read_text().replace(fingerprint, "0" * 64))
    options = arguments(prepared, tmp_path / "out")
    options[3] = str(ledger)
    assert "packed with another tokenizer" in run_step("train", *options, expect=2)
    assert not (tmp_path / "out/ledger.json").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"d_model": 30, "heads": 4}, "multiple of heads"),
        ({"rate": "fast"}, "rate: found 'fast'"),
        ({"learning_rate": 1}, "unknown key"),
        ({"device": "cpu", "dtype": "float8"}, "dtype"),
    ],
)
def test_wrong_settings_are_explained(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(Settings, wrong, "configuration")


def test_numbers_in_scientific_notation_are_numbers() -> None:
    settings = validate(Settings, {"rate": "1e-3", "tokens": "3.5e6"}, "configuration")
    assert (settings.rate, settings.tokens) == (1e-3, 3_500_000)


def test_a_mistake_that_is_noticed_late_costs_no_finished_model(
    prepared: Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "seed-1"
    shutil.copytree(undisturbed, folder)
    (folder / "ledger.json").unlink()  # as Snakemake does before it starts the job
    before = contents(folder)
    wrong = arguments(prepared, folder, dropout=0.1, device="cuda:99")
    assert "device: found 'cuda:99'" in run_step("train", *wrong, expect=2)
    assert contents(folder) == before
    # and once it is fixed, nothing is trained again
    times = {name: (folder / name).stat().st_mtime_ns for name in before if name != ".finished.jsonl"}
    assert "held-out loss" not in run_step("train", *arguments(prepared, folder, dropout=0.1))
    assert contents(folder) == contents(undisturbed)
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}


def test_a_training_that_diverges_is_one_line_and_ends_at_once(prepared: Prepared, tmp_path: Path) -> None:
    wild = {"rate": 1e30, "clip": 1e30, "warmup": 0, "evaluations": 1}
    message = run_step("train", *arguments(prepared, tmp_path / "out", **wild), expect=2)
    last = message.splitlines()[-1]
    assert "loss of nan, expected a number: the training diverged; lower language_models.train.rate" in last
    assert int(last.split()[2]) < 10
    assert "Traceback" not in message


def test_a_negative_seed_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    message = run_step("train", *arguments(prepared, tmp_path / "out", seed=-1), expect=2)
    assert message == "error: --seed: found -1, expected a number from 0\n"
