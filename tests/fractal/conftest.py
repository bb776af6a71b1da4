"""Small models, and one small study of the digits, for this chapter's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steps.core.runner import Output
from steps.fractal import evaluate, images, likelihood, sample, train
from steps.fractal.generators.levels import Fractal
from steps.fractal.generators.shapes import Architecture, Images
from tests.warm import start

SMALL: dict[str, Any] = {"sides": [8, 4, 1], "widths": [8, 8, 8], "depths": [1, 2, 1], "heads": [2, 1, 2]}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in jobs; more threads than idle cores make small models many times slower."""
    torch.set_num_threads(1)


def strong_model(architecture: dict[str, Any], shape: Images, dtype: torch.dtype = torch.float64) -> Fractal:
    """A model whose weights are of scale 1, so that every part of it matters, in evaluation mode."""
    torch.manual_seed(0)
    model = Fractal(Architecture(**architecture), shape)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_()
    return model.to(dtype).eval()


def lively_model(architecture: dict[str, Any], shape: Images, dtype: torch.dtype = torch.float64) -> Fractal:
    """A model whose classes, patches and pixels all decide something, and nothing is certain."""
    torch.manual_seed(0)
    model = Fractal(Architecture(**architecture), shape)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim == 2:
                embedding = name == "classes" or "tables" in name or "positions" in name
                weights.normal_(std=0.7 if embedding else weights.shape[1] ** -0.5)
    return model.to(dtype).eval()


def step(name: str, *arguments: str | Path) -> list[str]:
    """The command line of a step of this chapter."""
    return start.command(f"fractal.{name}", *arguments)


def run_step(name: str, *arguments: str | Path, expect: int = 0) -> str:
    """Run a step of this chapter, as ``tests.warm.start.run`` does."""
    return start.run(f"fractal.{name}", *arguments, expect=expect)


class Study:
    """A study of the digits with one small model, made in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images/ledger.json"
        self.model = folder / "small-1/ledger.json"
        self.likelihood = folder / "small-1/likelihood.safetensors"
        self.samples = folder / "small-1/samples/ledger.json"
        self.evaluations = folder / "evaluations.json"
        for path in (self.images, self.model, self.samples):
            path.parent.mkdir(parents=True)
        images.main(images.Settings(), Output(self.images))
        settings = train.Settings(steps=40, batch=32, rate=1e-2)
        train.main(self.images, Architecture(**SMALL), 1, settings, Output(self.model))
        likelihood.main(self.model, self.images, likelihood.Settings(), Output(self.likelihood))
        drawn = sample.Settings(draws=2, images=40, batch=30, guidance=[30.0])
        sample.main(self.model, drawn, Output(self.samples))
        settled = evaluate.Settings()
        evaluate.main(self.images, [self.likelihood], [self.samples], settled, Output(self.evaluations))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The small study, which no test changes."""
    return Study(tmp_path_factory.mktemp("study"))
