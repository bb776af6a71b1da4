"""What jobs call, in the tiny workflow, is what their code digests cover: an edit of it reruns them."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

from steps.core.digest import code_definitions
from tests.workflow.conftest import ROOT, Workspace

EXCEPTIONS = {
    "import": {
        "steps.core.definitions.names._FIELDS": "what the code digest itself looks up",
        "steps.neurons.explanations.features._at_start": "predicates of a table that is not read",
        "steps.neurons.explanations.features._digits": "predicates of a table that is not read",
    },
    "main": {
        "steps.core.digest.code_digest": "it decides by what name a result is known again, not what it is",
        "steps.neurons.plan._row": "of the table that is only logged",
        "steps.neurons.plan.table": "only logged",
    },
}
"""What stands in no digest although it is called: to build a constant that nobody reads, and by main."""

LEFT_OUT = ("steps.core.errors.", "steps.core.locks.", "steps.core.records.", "steps.core.runner.")
"""They decide how a result is reported, not what it is."""


@functools.cache
def statements(path: Path) -> list[tuple[int, int, list[str]]]:
    """First and last line of each top-level statement of a file, and the names that it binds."""
    found = []
    for node in ast.parse(path.read_text("utf-8")).body:
        names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
        own = getattr(node, "name", None)
        decorators = [part.lineno for part in getattr(node, "decorator_list", [])]
        first = min([node.lineno, *decorators])
        found.append((first, node.end_lineno or node.lineno, [own] if own else names))
    return found


def definitions(file: str, line: int) -> set[str]:
    """The names that the top-level statement binds in which a function stands."""
    path = Path(file)
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    [names] = [names for first, last, names in statements(path) if first <= line <= last]
    return {f"{module}.{name}" for name in names}


def test_what_a_job_calls_stands_in_its_digest(workspace: Workspace) -> None:
    workspace.finished()
    missing: dict[str, set[str]] = {}
    needed: set[str] = set()
    steps, calls = set(), 0
    for file in workspace.calls.iterdir():
        step = file.name.partition("-")[0].removeprefix("steps.")
        steps.add(step)
        covered = code_definitions(step)
        for who, path, name, line in json.loads(file.read_text()):
            calls += who == "main"
            found = definitions(path, line)
            exceptions = found & EXCEPTIONS.get(who, {}).keys()
            if who == "run" or covered & found:
                continue
            needed |= exceptions
            if not exceptions and not any(one.startswith(LEFT_OUT) for one in found):
                missing.setdefault(f"{who}: {Path(path).relative_to(ROOT)}: {name}", set()).add(step)
    assert not missing
    assert len(steps) > 30
    assert calls > 1000
    assert needed == {name for names in EXCEPTIONS.values() for name in names}  # none that is not used
