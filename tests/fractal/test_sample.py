"""Samples of a study: classes in turn, one image for one seed, and no draw lost to a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steps.core.runner import Output
from steps.core.stores import Folder, Ledger, read_array
from steps.fractal import sample, train
from steps.fractal.generators.shapes import Architecture, Images
from tests.fractal.conftest import SMALL, Study, run_step, step
from tests.warm.start import kill_after


def test_what_is_drawn(study: Study) -> None:
    store = Folder(study.samples, "fractal_samples").check_all()
    plain, guided = read_array(store, "plain"), read_array(store, "guided")
    assert plain.shape == (2, 40, 8, 8, 1)
    assert guided.shape == (1, 40, 8, 8, 1)
    assert read_array(store, "label").tolist() == [*range(10)] * 4
    assert store.attributes == {"guidance": [30.0], "draws": 2}
    assert plain.max() <= 16
    assert len(np.unique(plain.reshape(80, -1), axis=0)) == 80
    # of the same random numbers: most pixels agree, not all
    assert 0.5 < (guided[0] == plain[0]).mean() < 1


def test_guidance_1_is_the_model_s_own_distribution(study: Study, tmp_path: Path) -> None:
    settings = sample.Settings(draws=1, images=20, batch=20, guidance=[1.0])
    sample.main(study.model, settings, Output(tmp_path / "ledger.json"))
    store = Folder(tmp_path / "ledger.json", "fractal_samples")
    assert (read_array(store, "plain") == read_array(store, "guided")).all()


def test_settings_of_the_sweep_leave_the_model_s_own_draws_alone(study: Study, tmp_path: Path) -> None:
    other = {"temperature": 1.5, "schedule": "constant", "floor": 0.01}
    settings = sample.Settings(draws=1, images=40, batch=30, guidance=[30.0], **other)
    sample.main(study.model, settings, Output(tmp_path / "ledger.json"))
    ours, theirs = (Folder(path, "fractal_samples") for path in (tmp_path / "ledger.json", study.samples))
    assert (read_array(ours, "plain")[0] == read_array(theirs, "plain")[0]).all()
    assert (read_array(ours, "guided") != read_array(theirs, "guided")).any()


def test_killed_it_goes_on_with_the_batches_that_are_left(study: Study, tmp_path: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        settings = {"draws": 6, "images": 10, "batch": 5, "guidance": []}
        return [
            *("--model", str(study.model), "--settings", json.dumps(settings)),
            *("--out", str(folder / "ledger.json")),
        ]

    run_step("sample", *arguments(tmp_path / "undisturbed"))
    folder = tmp_path / "killed"
    written = 1 + 4  # the labels, then blocks of images
    kill_after(written, "steps.core.stores.ArrayWriter.write", step("sample", *arguments(folder)))
    made = {path: path.stat().st_mtime_ns for path in folder.glob("plain/c/*/*/*/*/*")}
    assert len(made) == 4  # of 12
    assert not (folder / "ledger.json").exists()
    run_step("sample", *arguments(folder))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert contents(folder) == contents(tmp_path / "undisturbed")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_code_on_the_page_draws_three_images(study: Study) -> None:
    """The code in docs/fractal.md, on the small model."""
    page = (Path(__file__).resolve().parents[2] / "docs/fractal.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = "data/fractal/default/ar-1/ledger.json"
    assert path in code
    names: dict[str, Any] = {}
    exec(code.replace(path, str(study.model)), names)
    assert names["images"].shape == (3, 8, 8, 1)
    assert len(names["images"].unique()) > 5


def test_where_nothing_is_known_of_images_no_class_is_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "model/ledger.json", "fractal_model", {})
    pixels, labels = np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.uint16)
    settings = train.Settings(steps=2, batch=4)
    train.train(pixels, labels, Architecture(**SMALL), Images(8, 1, 17, 0), 1, settings, ledger).finish()
    ledger.finish({})
    drawn = tmp_path / "samples/ledger.json"
    sample.main(ledger.folder / "ledger.json", sample.Settings(draws=1, images=3), Output(drawn))
    store = Folder(drawn, "fractal_samples")
    assert read_array(store, "plain").shape == (1, 3, 8, 8, 1)
    assert read_array(store, "label").tolist() == [0, 0, 0]


def test_values_are_drawn_where_there_is_float64() -> None:
    assert sample.with_float64(torch.device("mps")) == torch.device("cpu")
    assert sample.with_float64(torch.device("cuda", 1)) == torch.device("cuda", 1)
