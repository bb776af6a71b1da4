"""An edit reruns what it can change and nothing else: a table of edits, and what each reruns.

``benchmarks/reruns.py`` has the twenty edits over which ``workflow.rerun_share_of_edits`` is a mean.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reruns import EDITS, ROOT, Edit, Sources, apply, copy_sources, followed, share
from steps.workflow.generated import read_arrows

FURTHER = (
    Edit("a comment", "steps/neurons/correlate.py", "def main(", "# in short\ndef main("),
    Edit("a docstring", "steps/neurons/dump.py", '"""', '"""In short: '),
    Edit("a text of the runner", "steps/core/runner.py", "does not exist;", "is missing;"),
    Edit("a label of progress", "steps/neurons/dump.py", "blocks dumped", "blocks written"),
    Edit("a message of the errors", "steps/core/errors.py", "free some space or", "make room or"),
    Edit("an unused import", "steps/core/tensors.py", "import hashlib", "import bisect\nimport hashlib"),
    Edit("a local variable", "steps/neurons/clusters.py", r"\bmutual\b", "both"),
    Edit("the style of a page", "steps/neurons/page.css", "\n", "\n\n", reruns="neurons_page"),
    Edit("a title of a page", "steps/report/page.py", "def short(", "def _short(): pass\n\n\ndef short("),
    Edit(
        "a constant of training",
        "steps/language_models/learning/kernels.py",
        "2 * math",
        "2.5 * math",
        reruns="audit_base_organism audit_organism language_models_train",
    ),
    Edit(
        "a default of correlate",
        "steps/neurons/correlate.py",
        "draws: int = Field(\n        999",
        "draws: int = Field(\n        99",
        reruns="neurons_correlate neurons_plan neurons_report",  # which write down all settings
    ),
    Edit(
        "a setting of the section",
        "steps/workflow/neurons.py",
        "tiles: int = pydantic.Field(1,",
        "tiles: int = pydantic.Field(2,",
        reruns="neurons_correlate neurons_plan neurons_products neurons_report",
    ),
    Edit(
        "an option of a command",
        "rules/neurons.smk",
        "-m steps.neurons.clusters",
        "-m steps.neurons.clusters --debug",
        reruns="neurons_clusters",
    ),
)  # fmt: skip
"""What reruns by itself is known to the rule."""

WIDE = (
    Edit(
        "a word of a list",
        "steps/neurons/explanations/word_lists.json",
        '"zero"',
        '"nil"',
        reruns="neurons_text neurons_weights",
    ),
    Edit(
        "how tensors are written",
        "steps/core/tensors.py",
        "np.ascontiguousarray(values)",
        "np.array(values)",
        reruns="neurons_moments neurons_correlate",
    ),
    Edit(
        "how files are checked",
        "steps/core/stores.py",
        'file_digest(path) != self.files[name]["sha256"]',
        'self.files[name]["sha256"] != file_digest(path)',
        reruns="language_models_rows language_models_train neurons_dump",
    ),
    Edit(
        "how seeds are derived",
        "steps/core/digest.py",
        ":16], 16) >> 1",
        ":15], 16) >> 1",
        reruns="corpus_documents language_models_train neurons_correlate",
    ),
    Edit(
        "where models compute",
        "steps/core/devices.py",
        "device = torch.device(name)",
        "device = torch.device(str(name))",
        reruns="language_models_train neurons_dump neurons_correlate",
    ),
)
"""What at least reruns by itself; never the page, which uses none of it."""


@pytest.fixture(scope="module")
def before() -> Sources:
    return Sources(ROOT)


def differ(edit: Edit, before: Sources, folder: Path) -> set[str]:
    apply(edit, copy_sources(folder))
    return Sources(folder).differ(before)


@pytest.mark.parametrize("edit", [*EDITS, *FURTHER], ids=lambda edit: edit.what)
def test_an_edit_reruns_what_it_can_change(edit: Edit, before: Sources, tmp_path: Path) -> None:
    assert differ(edit, before, tmp_path / "sources") == set(edit.reruns.split())


@pytest.mark.parametrize("edit", WIDE, ids=lambda edit: edit.what)
def test_an_edit_of_what_many_use_reruns_them(edit: Edit, before: Sources, tmp_path: Path) -> None:
    found = differ(edit, before, tmp_path / "sources")
    assert set(edit.reruns.split()) <= found
    assert "report_page" not in found


def test_all_rules_of_steps_are_compared(before: Sources) -> None:
    needs = read_arrows((ROOT / "docs" / "workflow.md").read_text(encoding="utf-8"))
    assert {rule for pair in needs for rule in pair} - {"all"} <= before.steps.keys()
    assert len(EDITS) == 20


def test_what_follows_and_its_share() -> None:
    needs = {("a", "b"), ("b", "c"), ("a", "d"), ("e", "c"), ("c", "b")}
    assert followed(["b"], needs) == {"b", "c"}
    assert followed(["a"], needs) == {"a", "b", "c", "d"}
    assert followed([], needs) == set()
    assert share({"b", "c", "not run"}, {"a": 5.0, "b": 2.0, "c": 1.0, "d": 2.0}) == pytest.approx(0.3)


@pytest.mark.parametrize(("old", "new"), [("not in there", ""), ("def visible(", "def visible(:")])
def test_an_edit_that_cannot_be_made_is_none(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        apply(Edit("a wrong one", "steps/core/text.py", old, new), copy_sources(tmp_path / "sources"))
