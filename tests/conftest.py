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
    """Whole workflows first, and of these last the files that wait for the one that many share.

    What is short comes at the end, so that all processes that run tests end together.
    """
    wait = {item.path for item in items if "workspace" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (item.path.parent.name != "workflow", item.path in wait))


@pytest.fixture(scope="session")
def shared_text() -> Path:
    """The folder of real texts, which lies beside the repository and is not part of it."""
    folder = Path(os.environ.get("REPRISE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "text").is_dir():
        pytest.skip(f"no real texts under {folder}; name their folder in REPRISE_TEST_DATA")
    return folder / "text"
