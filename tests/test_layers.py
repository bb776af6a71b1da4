"""The layers inside chapters, read from the sources: steps on top, library code in sub-packages below.

Who of the chapters may know whom is in ``pyproject.toml`` (``test_packaging.py``).
"""

from __future__ import annotations

import ast
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

NOT_CHAPTERS = ("core", "interp", "workflow")
"""Packages that hold no steps."""

DRAW = ("figure", "gallery", "page", "report")
"""What steps that draw or lay out are called; others write what these read: a colour reruns these only."""

VAGUE = ("library", "utils", "common", "helpers", "misc")
"""What no room of library code is called."""

DEEPEST = 6
"""Modules in the longest chain of imports inside a chapter."""


@functools.cache  # copies of the sources differ in one file
def parsed(text: str) -> tuple[ast.Module, list[ast.Import | ast.ImportFrom]]:
    """The tree of a source and the imports in it, wherever they stand."""
    tree = ast.parse(text)
    return tree, [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


class Sources:
    """What every module of ``steps`` imports of the others, late or not."""

    def __init__(self, root: Path) -> None:
        self.trees: dict[str, ast.Module] = {}
        self.nodes: dict[str, list[ast.Import | ast.ImportFrom]] = {}
        self.packages: set[str] = set()
        for path in sorted((root / "steps").rglob("*.py")):
            *above, last = path.relative_to(root).with_suffix("").parts
            name = ".".join(above if last == "__init__" else [*above, last])
            self.trees[name], self.nodes[name] = parsed(path.read_text(encoding="utf-8"))
            if last == "__init__":
                self.packages.add(name)
        self.imports = {name: set(self._imported(name)) - {name} for name in self.trees}
        chapters = {name for name in self.packages if name.count(".") == 1} - {
            f"steps.{name}" for name in NOT_CHAPTERS
        }
        self.top = {name for name in self.trees.keys() - self.packages if name.rpartition(".")[0] in chapters}
        """The modules at the top level of the chapters."""

    def _imported(self, name: str) -> Iterator[str]:
        package = name if name in self.packages else name.rpartition(".")[0]
        for node in self.nodes[name]:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.trees)
            else:
                above = package.split(".")[: -(node.level - 1) or None] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    found = (f"{module}.{alias.name}", module)
                    yield from (one for one in found[:1] if one in self.trees)
                    yield from (one for one in found[1:] if one in self.trees and found[0] not in self.trees)

    def reached(self, name: str) -> set[str]:
        """All that a module imports, directly or not, itself included."""
        waiting, seen = [name], set[str]()
        while waiting:
            if (one := waiting.pop()) not in seen:
                seen.add(one)
                waiting += self.imports[one]
        return seen

    def longest(self, package: str) -> list[str]:
        """The longest chain of imports inside a package."""

        @functools.cache
        def below(name: str) -> tuple[str, ...]:
            inside = [one for one in self.imports[name] if one.startswith(f"{package}.")]
            return (name, *max(map(below, inside), key=len, default=()))

        return list(max((below(name) for name in self.trees if name.startswith(f"{package}.")), key=len))


@functools.cache
def faults(root: Path) -> list[str]:
    """Where the sources break the rules of the house, but for drawing."""
    sources = Sources(root)
    found = []
    for name in sorted(sources.packages):
        body = sources.trees[name].body
        if len(body) != 1 or ast.get_docstring(sources.trees[name]) is None:
            found.append(f"{name}: holds more than a docstring, or none")
        if name.rpartition(".")[2] in VAGUE:
            found.append(f"{name}: a name that does not say what it holds")
    for name in sorted(sources.top):
        defined = {node.name for node in sources.trees[name].body if isinstance(node, ast.FunctionDef)}
        started = any(ast.unparse(node).startswith("if __name__ ==") for node in sources.trees[name].body)
        if "main" not in defined or not started:
            found.append(f"{name}: no step, since it has no main; library code lies in a sub-package")
    for name, imported in sorted(sources.imports.items()):
        if name.startswith("steps.workflow"):  # composes their settings
            continue
        kind = "a step" if name in sources.top else "library code"
        found += [f"{name}: {kind} that imports the step {one}" for one in sorted(imported & sources.top)]
    for package in sorted({name.rpartition(".")[0] for name in sources.top}):
        if len(chain := sources.longest(package)) > DEEPEST:
            found.append(f"{package}: {len(chain)} modules import each other in turn: {' > '.join(chain)}")
    return found


@functools.cache
def drawing(root: Path) -> set[str]:
    """The steps from which a module that draws is reached."""
    sources = Sources(root)
    draws = {
        name
        for name, nodes in sources.nodes.items()
        if name in ("steps.core.figures", "steps.core.pictures")
        or name.split(".")[2:3] == ["figures"]
        or any(
            alias.name.partition(".")[0] == "matplotlib"
            for node in nodes
            if isinstance(node, ast.Import)
            for alias in node.names
        )
        or any(
            (node.module or "").partition(".")[0] == "matplotlib"
            for node in nodes
            if isinstance(node, ast.ImportFrom)
        )
    }
    return {name.removeprefix("steps.") for name in sources.top if sources.reached(name) & draws}


def test_steps_lie_on_top_and_know_no_other_step() -> None:
    assert faults(ROOT) == []


def test_only_steps_that_draw_know_how_to() -> None:
    assert {name.rpartition(".")[2] for name in drawing(ROOT)} <= {*DRAW}


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("neurons/helpers.py", "def helped(): ...", "steps.neurons.helpers: no step"),
        ("neurons/utils/__init__.py", '"""Useful."""', "steps.neurons.utils: a name that does not say"),
        ("neurons/costs/__init__.py", "LIMIT = 3", "steps.neurons.costs: holds more than a docstring"),
        ("neurons/dump.py", "from steps.neurons.moments import Settings", "step steps.neurons.moments"),
        (
            "neurons/dump.py",
            "def late():\n    from . import moments",
            "imports the step steps.neurons.moments",
        ),
        ("neurons/dump.py", "from steps.language_models import train", "step steps.language_models.train"),
        (
            "neurons/costs/study.py",
            "from steps.neurons.dump import Settings",
            "steps.neurons.costs.study: library code that imports the step steps.neurons.dump",
        ),
        ("interp/weights.py", "import steps.language_models.train", "library code that imports the step"),
        (
            "neurons/activations/store.py",
            "def late():\n    from steps.neurons.costs import hardware",
            "modules import each other in turn: ",
        ),
    ],
)
def test_a_fault_is_noticed(tmp_path: Path, file: str, line: str, says: str) -> None:
    shutil.copytree(ROOT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "steps" / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    assert [fault for fault in {*faults(tmp_path)} - {*faults(ROOT)} if says in fault]


@pytest.mark.parametrize(
    "line", ["from steps.core import figures", "def late():\n    import matplotlib.pyplot as plt"]
)
def test_a_step_that_draws_beside_computing_is_noticed(tmp_path: Path, line: str) -> None:
    shutil.copytree(ROOT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "steps/neurons/correlations/pearson.py"
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    assert "neurons.correlate" in drawing(tmp_path) - drawing(ROOT)
