"""The images of a study: the split that others use, and every array accounted for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder, read_array
from steps.fractal import images
from steps.fractal.sources.embedded import digits
from tests.fractal.conftest import Study


def test_the_split_is_that_of_the_published_baselines(study: Study) -> None:
    """``default_rng(0).permutation(1797)``, the first 1,437 to train on."""
    store = Folder(study.images, "images").check_all()
    order, all_of = np.random.default_rng(0).permutation(1797), digits()
    assert (read_array(store, "train") == all_of.pixels[order[:1437]]).all()
    assert (read_array(store, "test") == all_of.pixels[order[1437:]]).all()
    assert (read_array(store, "test_label") == all_of.labels[order[1437:]]).all()
    assert store.attributes["images"] == {"train": 1437, "test": 360}
    about = {name: store.attributes[name] for name in ("side", "channels", "values")}
    assert about == {"side": 8, "channels": 1, "values": 17}
    for name, digest in store.attributes["sha256"].items():
        assert hashlib.sha256(read_array(store, name).tobytes()).hexdigest() == digest
    assert len(store.attributes["sha256"]) == 4


def test_another_seed_is_another_split(study: Study, tmp_path: Path) -> None:
    images.main(images.Settings(seed=1), Output(tmp_path / "ledger.json"))
    ours, others = (
        read_array(Folder(path, "images"), "test") for path in (study.images, tmp_path / "ledger.json")
    )
    assert ours.shape == others.shape
    assert (ours != others).any()


def test_a_class_without_training_images_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^fractal.images.test: found 1795, which leaves no training image"):
        images.main(images.Settings(test=1795), Output(tmp_path / "ledger.json"))
    assert not (tmp_path / "ledger.json").exists()
