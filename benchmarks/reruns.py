"""What reruns after an edit of the source: rules whose code, settings or command differ, and what follows.

Nothing is run: digests, settings and rules of the edited sources are compared with those of the sources as
they are, and the drawing in ``docs/workflow.md`` says what follows.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Figure
from steps.core import records
from steps.core.digest import code_digest
from steps.core.stores import read_json, write_json
from steps.workflow.generated import read_arrows

ROOT = Path(__file__).resolve().parents[1]
CPU_SECONDS = ROOT / "benchmarks" / "records" / "default-cpu-seconds.json"
"""CPU seconds of all jobs of each rule of the default targets, by the runner's records."""


class Edit(NamedTuple):
    """A change of one file."""

    what: str
    file: str
    old: str
    r"""What becomes something else where it first stands; everywhere, if it is a name between two ``\b``."""
    new: str
    reruns: str = ""
    """The rules whose own jobs rerun; what needs their output follows."""


DRAWING = (
    "audit_report dafny_report fractal_figure language_models_report neurons_figure neurons_gallery"
    " neurons_single_figure skills_figure"
)
"""The rules that draw."""

EDITS = (
    Edit("a word of an error in stores", "steps/core/stores.py", "its list of files is broken", "is damaged"),
    Edit(
        "a word of an error in settings",
        "steps/core/settings.py",
        "missing, add it",
        "missing; add it",
        reruns="report_page",  # which checks what chapters report
    ),
    Edit("a word of an error in devices", "steps/core/devices.py", "use cpu, or", "take cpu, or"),
    Edit(
        "a log line of train",
        "steps/language_models/learning/loop.py",
        "held-out loss %.3f nats",
        "loss %.3f nats",
    ),
    Edit(
        "a warning of dump",
        "steps/neurons/dump.py",
        "%d tokens requested, %d available",
        "%d requested, %d available",
    ),
    Edit("a type hint in tensors", "steps/core/tensors.py", "facts: dict[str, Any]", "facts: Any"),
    Edit("a description", "steps/neurons/clusters.py", "resamplings of token blocks", "resampled blocks"),
    Edit("a bound", "steps/neurons/clusters.py", "le=100_000", "le=10_000"),
    Edit(
        "an unused function in text",
        "steps/core/text.py",
        "def plural(",
        "def singular(what: str) -> str:\n    return what.removesuffix('s')\n\n\ndef plural(",
    ),
    Edit("a blank line in word_lists", "steps/neurons/explanations/word_lists.json", "{\n", "{\n\n"),
    Edit(
        "a new field of clusters",
        "steps/neurons/clusters.py",
        '    seed: int = Field(0, ge=0, description="of the bootstraps")\n',
        '    seed: int = Field(0, ge=0, description="of the bootstraps")\n    more: int = 1\n',
        reruns="neurons_clusters neurons_plan neurons_report",  # which write down all settings
    ),
    Edit("a local variable of table", "steps/neurons/table.py", r"\bcounted\b", "tallied"),
    Edit(
        "options of table in another order",
        "rules/neurons.smk",
        ' --neurons {output.neurons:q}"\n        " --examples {output.examples:q}',
        ' --examples {output.examples:q}"\n        " --neurons {output.neurons:q}',
        reruns="neurons_table",
    ),
    Edit(
        "a column of the excess table",
        "steps/neurons/baseline.py",
        '        "min_corr": largest.min(0),\n',
        '        "min_corr": largest.min(0),\n        "range_corr": largest.max(0) - largest.min(0),\n',
        reruns="neurons_baseline",
    ),
    Edit("a colour", "steps/core/figures.py", "#0072b2", "#0072b3", reruns=DRAWING),
    Edit(
        "a title in figure",
        "steps/neurons/figures/correlations.py",
        "Largest correlation by partner",
        "Largest correlation of each partner",
        reruns="neurons_figure neurons_single_figure",
    ),
    Edit(
        "a title in gallery",
        "steps/neurons/figures/galleries.py",
        "(held-out variance reduction)",
        "(variance reduction)",
        reruns="neurons_gallery",
    ),
    Edit(
        "an axis label in the models' report",
        "steps/language_models/report.py",
        "training tokens (millions)",
        "tokens (millions)",
        reruns="language_models_report",
    ),
    Edit(
        "page.css", "steps/core/page.css", ":root {", ":root  {", reruns="dafny_page neurons_page report_page"
    ),
    Edit("page.html", "steps/report/page.html", "Reprise: results", "Results", reruns="report_page"),
)
"""The twenty edits over which ``workflow.rerun_share_of_edits`` is a mean."""


def copy_sources(folder: Path) -> Path:
    """What decides results, in another place."""
    folder.mkdir(parents=True)
    for name in ("Snakefile", "config", "docs", "rules", "steps"):
        ignored = shutil.ignore_patterns("__pycache__")
        place = folder / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=ignored)
        else:
            shutil.copy(ROOT / name, place)
    return folder


def apply(edit: Edit, folder: Path) -> None:
    """Make an edit in a copy of the sources.

    Raises:
        ValueError: the file does not hold the old text, or is no Python afterwards.
    """
    path = folder / edit.file
    text = path.read_text(encoding="utf-8")
    everywhere = edit.old.startswith(r"\b")
    pattern = edit.old if everywhere else re.escape(edit.old)
    text, number = re.subn(pattern, lambda _: edit.new, text, count=0 if everywhere else 1)
    if not number:
        raise ValueError(f"{edit.what}: {edit.file} does not hold {edit.old!r}")
    if path.suffix == ".py":
        compile(text, edit.file, "exec")
    path.write_text(text, encoding="utf-8")


def commands(folder: Path) -> dict[str, str]:
    """The source of each rule."""
    found: dict[str, str] = {}
    for path in sorted((folder / "rules").glob("*.smk")):
        parts = re.split(r"^\s*rule (\w+):\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


def steps_of(commands: Mapping[str, str]) -> dict[str, str]:
    """The step that each rule runs; not those rules that only name files."""
    found = {rule: re.search(r"python -m steps\.([\w.]+)", source) for rule, source in commands.items()}
    return {rule: step[1] for rule, step in found.items() if step}


def parameters(folder: Path) -> dict[str, Any]:
    """The default settings that decide results, by chapter and step."""
    code = (
        "import json; from steps.core.settings import Settings, deciding\n"
        "from steps.workflow.configuration import Config\n"
        "print(json.dumps({c: deciding(s) for c, s in Config() if isinstance(s, Settings)}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Sources:
    """What Snakemake compares of the rules of a source tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = commands(folder)
        self.steps = steps_of(self.commands)
        self.digests = {step: code_digest(step, folder) for step in self.steps.values()}
        self.composed = [path.read_bytes() for path in sorted((folder / "steps/workflow").glob("*.py"))]

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """The default settings, by chapter and step."""
        return parameters(self.folder)

    def differ(self, other: Sources) -> set[str]:
        """The rules whose jobs rerun by themselves."""
        code = {
            rule
            for rule, step in self.steps.items()
            if self.commands[rule] != other.commands.get(rule)
            or self.digests[step] != other.digests.get(step)
        }
        if self.digests == other.digests and self.composed == other.composed:
            return code  # settings are part of their step's code: they are the same
        return code | {rule for rule in self.steps if self._given(rule) != other._given(rule)}

    def _given(self, rule: str) -> list[Any]:
        """The settings that a rule's parameters name, directly, by their step or by a function."""
        text = self.commands[rule].partition("    params:")[2].partition("    shell:")[0]
        named = {*re.findall(r'step\("([\w.]+)"\)', text), *re.findall(r"\bsettings\.([\w.]+)", text)}
        if "neurons.study(settings)" in text:
            named.add("neurons")
        return [self._setting(name.replace("shared_tokenizer", "tokenizer")) for name in sorted(named)]

    def _setting(self, name: str) -> Any:
        """A setting by its dotted name; None for a step without settings."""
        value: Any = self.parameters
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value


def followed(rules: Iterable[str], needs: Iterable[tuple[str, str]]) -> set[str]:
    """Rules with all that need their output, directly or not."""
    found, waiting = set[str](), list(rules)
    while waiting:
        rule = waiting.pop()
        if rule not in found:
            found.add(rule)
            waiting += [needing for made, needing in needs if made == rule]
    return found


def share(rules: Iterable[str], seconds: Mapping[str, float]) -> float:
    """The part of the CPU time of a whole run that is spent in some of its rules.

    Args:
        rules: the rules that rerun.
        seconds: CPU time of all jobs of each rule, by the runner's records.
    """
    return sum(seconds.get(rule, 0.0) for rule in rules) / sum(seconds.values())


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``workflow.rerun_share_of_edits``: the mean over the twenty edits, by the records that are kept."""
    edits = EDITS[:2] if quick else EDITS
    shares = rerun_share_of_edits(read_json(CPU_SECONDS), folder, edits)
    values = list(shares.values())
    yield Figure(
        "workflow.rerun_share_of_edits",
        statistics.mean(values),
        "share",
        (min(values), max(values)),
        shares,
        len(values),
        "at most 0.03",
    )


def rerun_share_of_edits(
    seconds: Mapping[str, float], folder: Path, edits: Iterable[Edit] = EDITS
) -> dict[str, float]:
    """The share of each edit; their mean is ``workflow.rerun_share_of_edits``.

    Args:
        seconds: CPU time of all jobs of each rule of the default study.
        folder: an empty one, for the edited sources.
        edits: what is edited, one at a time.
    """
    needs = read_arrows((ROOT / "docs" / "workflow.md").read_text(encoding="utf-8"))
    before = Sources(ROOT)
    found = {}
    for number, edit in enumerate(edits):
        place = copy_sources(folder / str(number))
        apply(edit, place)
        found[edit.what] = share(followed(Sources(place).differ(before), needs), seconds)
    return found


def cpu_seconds_of_rules(logs: Path) -> dict[str, float]:
    """CPU seconds of all jobs of each rule, by the records beside their logs."""
    rules = {step: rule for rule, step in reversed(Sources(ROOT).steps.items())}
    seconds: Counter[str] = Counter()
    for record in records.read(str(logs / "**" / "*.json")):
        seconds[rules[record["step"]]] += record["cpu_seconds"]
    return {rule: round(value, 2) for rule, value in sorted(seconds.items())}


if __name__ == "__main__":
    # python -m benchmarks.reruns LOGS: keeps the CPU seconds of a run of the default targets
    write_json(CPU_SECONDS, cpu_seconds_of_rules(Path(sys.argv[1])))
