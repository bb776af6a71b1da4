"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The same examples every time, however slow the machine is.
hypothesis.settings.register_profile("reprise", deadline=None, derandomize=True)
hypothesis.settings.load_profile("reprise")

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True)  # before xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Longest first, and each module in one process, all that need the tiny workflow in the same."""
    tiny = {item.path for item in items if "undisturbed" in getattr(item, "fixturenames", ())}
    tiny = {path for path in tiny if path.parent.name == "workflow"}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("tiny" if item.path in tiny else str(item.path)))
    items.sort(key=lambda item: (item.path not in tiny, item.path.name != "test_ci.py"))
    yield


@pytest.fixture(scope="session")
def shared_text() -> Path:
    """The folder of real texts, which lies beside the repository and is not part of it."""
    data = Path(os.environ.get("REPRISE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "text").is_dir():
        pytest.skip(f"no real texts under {data}; name their folder in REPRISE_TEST_DATA")
    return data / "text"
