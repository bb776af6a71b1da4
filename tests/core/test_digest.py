"""Fingerprints: what must change them does, what must not does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.core import digest

FILES = {
    "steps/__init__.py": "",
    "steps/core/__init__.py": "",
    "steps/core/runner.py": "def run(main): main()\n",
    "steps/core/errors.py": "TEXT = 'sorry'\n",
    "steps/core/words.json": "[]",
    "steps/core/other.json": "[]",
    "steps/core/tools.py": "from steps.core import deeper\n\ndef double(x):\n    return 2 * deeper.same(x)\n",
    "steps/core/deeper.py": "import steps.chapter.step\n\nW = 'words.json'\n\ndef same(x):\n    W\n    return x\n",
    "steps/core/unused.py": "A = 1\n",
    "steps/chapter/__init__.py": "",
    "steps/chapter/step.py": '''"""Reads and writes."""

import json

from steps.core.errors import TEXT
from steps.core.runner import run

A = 1
"""What A is."""


class Thing:
    """A thing."""

    b: int = 2
    """What b is."""


async def wait():
    """Wait."""


def main(x):
    """Do it."""
    from steps.core.tools import double  # late

    return json.dumps([double(x), "text", TEXT, A, Thing.b])


run(main)
''',
}
STEP = "steps/chapter/step.py"

Edit = Callable[[str, str, str], str]


@pytest.fixture
def edited(tmp_path_factory: pytest.TempPathFactory) -> Edit:
    """The digest of the step in a small project after ``old`` became ``new`` in one of its files."""

    def edit(name: str, old: str, new: str) -> str:
        folder = project(tmp_path_factory.mktemp("project"), FILES)
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1))
        return digest.code_digest("chapter.step", folder)

    return edit


def project(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (STEP, "Reads and writes.", "Reads,\nthen writes."),
        (STEP, '"""Reads and writes."""', ""),
        (STEP, '    """A thing."""', ""),
        (STEP, '    """Do it."""', ""),
        (STEP, '    """Wait."""', "    pass"),
        (STEP, "What A is.", "What A means."),
        (STEP, "    b: int = 2", '    b: int = 2\n    """Another."""'),
        (STEP, "# late", "# an import inside a function"),
        (STEP, "A = 1", "\n\nA   =   1  # one"),
        (STEP, '"text"', "'text'"),
        (
            STEP,
            '[double(x), "text", TEXT, A, Thing.b]',
            '[\n        double(x),\n        "text",\n        TEXT, A, Thing . b\n    ]',
        ),
        ("steps/core/tools.py", "def double(x):", 'def double(x):\n    """Twice x."""'),
        ("steps/core/runner.py", "main()", "main(1)"),
        ("steps/core/errors.py", "sorry", "very sorry"),
        ("steps/core/unused.py", "1", "2"),
        ("steps/core/other.json", "[]", "[1]"),
    ],
)
def test_documentation_layout_and_the_runner_change_nothing(
    edited: Edit, name: str, old: str, new: str
) -> None:
    assert edited(name, old, new) == edited(STEP, "A", "A")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (STEP, "A = 1", "A = 2"),
        (STEP, '"text"', '"other"'),
        (STEP, "b: int = 2", "b: int = 3"),
        (STEP, "return json", "json"),
        ("steps/core/tools.py", "2 *", "3 *"),
        ("steps/core/deeper.py", "return x", "return -x"),
        ("steps/core/words.json", "[]", "[1]"),
    ],
)
def test_code_changes_the_digest_wherever_it_lies(edited: Edit, name: str, old: str, new: str) -> None:
    assert edited(name, old, new) != edited(STEP, "A", "A")


def test_the_digest_does_not_depend_on_where_the_project_lies(edited: Edit, tmp_path: Path) -> None:
    assert digest.code_digest("chapter.step", project(tmp_path / "else where", FILES)) == edited(STEP, "A", "A")


def test_a_file_digest_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"abc", bytes(range(256)) * 5000):
        path.write_bytes(content)
        assert digest.file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_fingerprint_ignores_the_order_of_keys_only() -> None:
    assert digest.fingerprint({"a": 1, "b": [1, 2]}) == digest.fingerprint({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": 1.0, "b": [1, 2]}, {"a": "1", "b": [1, 2]}, {"a": 1}]
    assert digest.fingerprint({"a": 1, "b": [1, 2]}) not in map(digest.fingerprint, others)


def test_seeds_are_stable_and_distinct() -> None:
    # Written down once: results of earlier runs depend on them.
    assert digest.seed(0, "train", "seed-1") == 5370568481781189157
    assert digest.seed(1, "a") == digest.seed("1", "a")  # settings may come as text
    seeds = {digest.seed(base, step, item) for base in range(10) for step in "ab" for item in range(50)}
    seeds |= {digest.seed("ab", "c"), digest.seed("a", "bc"), digest.seed("abc")}
    assert len(seeds) == 10 * 2 * 50 + 3
    assert all(0 <= number < 2**63 for number in seeds)
    assert max(seeds) > 2**62
