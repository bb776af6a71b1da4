"""Training: learns what is planted, is the same each time, and survives kills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder, Ledger
from steps.core.training import Training
from steps.fractal import train
from steps.fractal.generators.levels import NULL, Fractal
from steps.fractal.generators.saved import load
from steps.fractal.generators.shapes import Architecture, Images
from tests.fractal.conftest import SMALL, Study, run_step, step
from tests.warm.start import kill_at_the_next_state


def arguments(study: Study, out: Path, seed: int = 1, **settings: Any) -> list[str]:
    return [
        *("--images", str(study.images), "--model", json.dumps(SMALL), "--seed", str(seed)),
        *("--settings", json.dumps({"steps": 30, "batch": 8, **settings}), "--out", str(out / "ledger.json")),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_killed_twice_it_ends_with_the_same_bytes_and_another_seed_does_not(
    study: Study, tmp_path: Path
) -> None:
    run_step("train", *arguments(study, tmp_path / "undisturbed", dropout=0.1))
    folder = tmp_path / "killed"
    options = arguments(study, folder, dropout=0.1, save_seconds=0)
    state = folder / train.STATE
    for _ in range(2):
        kill_at_the_next_state(step("train", *options), state)
        assert not (folder / "ledger.json").exists()
    assert "resuming after step" in run_step("train", *options)
    assert contents(folder) == contents(tmp_path / "undisturbed")
    run_step("train", *arguments(study, tmp_path / "other", seed=2, dropout=0.1))
    name = "model.safetensors"
    assert contents(tmp_path / "other")[name] != contents(folder)[name]


def test_killed_before_its_state_is_removed_it_leaves_none(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Training) -> None:
        raise KeyboardInterrupt

    settings = train.Settings(steps=2, batch=4)
    arguments = (study.images, Architecture(**SMALL), 1, settings)
    train.main(*arguments, Output(tmp_path / "undisturbed/ledger.json"))
    folder = tmp_path / "killed"
    monkeypatch.setattr(Training, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        train.main(*arguments, Output(folder / "ledger.json"))
    monkeypatch.undo()
    assert (folder / train.STATE).exists()
    assert (folder / train.CURVE).exists()
    train.main(*arguments, Output(folder / "ledger.json"))
    assert contents(folder) == contents(tmp_path / "undisturbed")


def test_what_a_trained_folder_holds(study: Study) -> None:
    folder = Folder(study.model, "fractal_model").check_all()
    assert folder.attributes == {"images": Folder(study.images, "images").fingerprint, "seed": 1}
    curve = json.loads((folder.folder / train.CURVE).read_text())
    assert [point["step"] for point in curve] == list(range(2, 41, 2))
    assert curve[-1]["images"] == 40 * 32
    assert curve[-1]["rate"] < curve[0]["rate"]
    assert curve[0]["bits_per_dim"] > 3.5 > 3.2 > curve[-1]["bits_per_dim"]
    model = load(study.model)
    assert not model.training
    assert model.architecture == Architecture(**SMALL)
    assert model.images == Images(8, 1, 17, 10)
    assert not (folder.folder / train.STATE).exists()


def test_it_learns_what_is_planted(tmp_path: Path) -> None:
    """Images of one value, which is the class: nothing is left to say, or one bit in the first pixel."""
    labels = np.arange(64, dtype=np.uint16) % 2
    pixels = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (64, 4, 4, 1)).copy()
    ledger = Ledger(tmp_path / "ledger.json", "fractal_model", {})
    architecture = Architecture(sides=[4, 2, 1], widths=[16, 16, 16], depths=[1, 1, 1], heads=[2, 2, 2])
    settings = train.Settings(steps=60, batch=32, rate=1e-2, label_drop=0.5, dropout=0.0)
    train.train(pixels, labels, architecture, Images(4, 1, 2, 2), 1, settings, ledger).finish()
    ledger.finish({})
    model = load(tmp_path / "ledger.json")
    images = torch.from_numpy(pixels[:2]).long()
    with torch.inference_mode():
        given = model.nll(images, torch.tensor([0, 1])).flatten(1)
        wrong = model.nll(images, torch.tensor([1, 0])).flatten(1)
        null = model.nll(images, torch.tensor([NULL, NULL])).flatten(1)
    assert given.max() < 0.1
    assert wrong[:, 0].min() > 2
    assert null[:, 0].tolist() == pytest.approx([np.log(2)] * 2, abs=0.2)
    assert null[:, 1:].max() < 0.1


def test_a_training_that_diverges_is_one_line(study: Study, tmp_path: Path) -> None:
    said = run_step("train", *arguments(study, tmp_path, rate=1e30, clip=1e30), expect=2)
    [line] = [line for line in said.splitlines() if "error" in line]
    assert "the training diverged; lower fractal.train.rate" in line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"sides": [8, 3, 1]}, "3 does not divide 8"),
        ({"sides": [8, 4, 2]}, "sides that end with 1"),
        ({"sides": [8, 8, 1]}, "8 does not divide 8"),
        ({"depths": [1, 1]}, r"as many depths \(2\) as sides \(3\)"),
        ({"heads": [2, 3, 2]}, "8 is none of 3"),
        ({"heads": [4, 2, 2]}, r"a multiple of 4, for rotary positions \(8 / 4 is 2\)"),
    ],
)
def test_levels_that_do_not_fit_are_one_line(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(**{**SMALL, **model})


def test_images_of_another_side_are_one_line(study: Study, tmp_path: Path) -> None:
    other = Architecture(**{**SMALL, "sides": [16, 4, 1]})
    with pytest.raises(UserError, match=r"^--model: found sides that begin with 16, expected 8"):
        train.main(study.images, other, 1, train.Settings(), Output(tmp_path / "ledger.json"))


def test_bfloat16_trains_float32_weights(study: Study, tmp_path: Path) -> None:
    settings = train.Settings(steps=2, batch=4, dtype="bfloat16")
    train.main(study.images, Architecture(**SMALL), 1, settings, Output(tmp_path / "ledger.json"))
    model = load(tmp_path / "ledger.json")
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert isinstance(model, Fractal)
