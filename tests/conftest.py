"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# The same examples every time, however slow the machine is.
hypothesis.settings.register_profile("reprise", deadline=None, derandomize=True)
hypothesis.settings.load_profile("reprise")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole workflows first: the last of them would otherwise run alone at the end."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="session")
def shared_text() -> Path:
    """The folder of real texts, which lies beside the repository and is not part of it."""
    folder = Path(os.environ.get("REPRISE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "text").is_dir():
        pytest.skip(f"no real texts under {folder}; name their folder in REPRISE_TEST_DATA")
    return folder / "text"
