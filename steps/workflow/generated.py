"""What is written from the code: ``python -m steps.workflow.generated [--check] [FILE ...]``.

``config/default.yaml``
    Every setting with its default and, as a comment, the description of its ``Field``. A step's setting that
    it shares with what stands above it (``threads``) is left out where both have the same default.
``dvc.yaml``
    Under ``deps`` of each stage the modules that the code digests of its steps cover, ``steps/core`` and
    ``steps/workflow`` as a whole, and what of the package its rules read as data.
``docs/workflow.md``
    The diagram of the rules and what each needs.

``make fix`` writes all three. With ``--check``, as in ``make lint``, nothing is written, and the exit code is
1 where something is out of date.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from steps.core.digest import code_files
from steps.core.errors import UserError
from steps.core.settings import Settings
from steps.workflow import versions
from steps.workflow.configuration import ROOT, Config
from steps.workflow.section import Section

_LINE = 120
_HEAD = (
    "Every setting of Reprise with its default. `make fix` writes this file from the code, so a change here"
    " is lost; another file overrides what it names (snakemake --configfile config/paper.yaml). What stands"
    " above a step holds for every step below it that has a setting of that name, unless the step says"
    " otherwise."
)


def default_configuration(before: str = "") -> str:
    """``config/default.yaml``, whatever it was ``before``."""
    return "\n".join([*_comment(_HEAD), *_settings(Config(), {}, 0)]) + "\n"


def _settings(settings: Settings, above: dict[str, Any], depth: int) -> Iterator[str]:
    """The lines of settings, those of steps after the others; ``above`` are the ones that they inherit."""
    values = settings.model_dump(mode="json")
    fields = {name: str(field.description) for name, field in type(settings).model_fields.items()}
    below = {name: value for name in fields if isinstance(value := getattr(settings, name), Settings)}
    for name, description in fields.items():
        if name not in below and (name not in above or above[name] != values[name]):
            yield from _line(name, _yaml(values[name]), description, depth)
    shared = above | {name: values[name] for name in fields if name not in below}
    for name, part in below.items():
        lines = list(_settings(part, shared, depth + 1))
        if lines and isinstance(part, Section):
            yield ""
            yield from _comment(inspect.cleandoc(type(part).__doc__ or ""))
            yield f"{name}:"
        elif lines:
            yield from _line(name, "", fields[name], depth)
        yield from lines


def _line(name: str, value: str, description: str, depth: int) -> Iterator[str]:
    """A setting, what it is beside it where there is room and else above."""
    indent = "  " * depth
    setting = f"{indent}{name}: {value}".rstrip()
    if len(setting) + len(description) + 3 <= _LINE:
        yield f"{setting} # {description}"
    else:
        yield from (indent + line for line in _comment(description, _LINE - len(indent)))
        yield setting


def _comment(text: str, width: int = _LINE) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _yaml(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text


def stages(before: str) -> str:
    """``dvc.yaml`` with the modules on which each stage depends."""
    declared = yaml.safe_load(before)["stages"]
    made = _rules_by_stage(declared)
    lines, stage, listing = [], "", False
    for line in before.splitlines():
        if found := re.match(r"  (\w+):$", line):
            stage = found[1]
        if re.match(r"    \w+:", line):
            listing = line == "    deps:"
        if not (listing and line.startswith("      - steps/")):
            lines.append(line)
        elif line == "      - steps/core":
            lines += [line, *(f"      - {path}" for path in [*modules(made[stage]), *data(made[stage])])]
        elif line == "      - steps/workflow":
            lines.append(line)
    return "\n".join(lines) + "\n"


def _rules_by_stage(declared: dict[str, Any]) -> dict[str, set[str]]:
    """For each stage, the rules that make what it records."""
    found = {}
    with contextlib.chdir(ROOT):
        for name, stage in declared.items():
            folders = [Path(folder) for item in stage["outs"] for folder in item]
            rows = versions.results(*versions.within(*stage["cmd"].split()[4:]))
            found[name] = {row["rule"] for row in rows if {*folders} & {*Path(row["output_file"]).parents}}
    return found


def data(rules: Iterable[str]) -> list[str]:
    """The folders of the package that rules read as data, by the sections of their chapters."""
    sections = Config().sections().items()
    found = {
        folder
        for name, section in sections
        for folder in section.data
        if any(rule == name or rule.startswith(f"{name}_") for rule in rules)
    }
    return sorted(found)


def modules(rules: Iterable[str]) -> list[str]:
    """The files that the code digests of rules' steps cover, beside the core; folders where all of it is."""
    texts = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
    bodies = dict(re.findall(r"^ *rule (\w+):\n((?: .*\n|\n)+)", texts, re.MULTILINE))
    steps = {step for rule in rules for step in re.findall(r"python -m steps\.([\w.]+)", bodies[rule])}
    covered = {Path(file) for step in steps for file in code_files(step, ROOT)}
    return [path.as_posix() for path in _whole(Path("steps"), covered)]


def _whole(folder: Path, covered: set[Path]) -> Iterator[Path]:
    """Folders of which all is covered, and single files of others."""
    for path in sorted((ROOT / folder).iterdir()):
        inside = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        here = path.relative_to(ROOT)
        if here in covered or (inside and {file.relative_to(ROOT) for file in inside} <= covered):
            yield here
        elif inside and here not in (Path("steps/core"), Path("steps/workflow")):
            yield from _whole(here, covered)


def diagram(before: str) -> str:
    """``docs/workflow.md`` with what each rule needs, as Snakemake says, in an order that does not change."""
    with tempfile.TemporaryDirectory() as empty:
        command = ["--snakefile", str(ROOT / "Snakefile"), "--directory", empty, "--rulegraph", "mermaid-js"]
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise UserError(f"Snakefile: snakemake refuses it: {' '.join(done.stderr.split())}; correct it first")
    arrows = sorted(f"\t{a} --> {b}" for a, b in read_arrows(done.stdout))
    drawn = "\n".join(["```mermaid", "flowchart TB", *arrows, "```"])
    return re.sub(r"```mermaid\n.*?\n```", lambda _: drawn, before, count=1, flags=re.DOTALL)


def read_arrows(drawing: str) -> set[tuple[str, str]]:
    """What a mermaid drawing says needs what, by name."""
    names = dict(re.findall(r"(\w+)\[(\w+)\]", drawing))
    arrows = re.findall(r"^\s*(\w+) --> (\w+)", drawing, re.MULTILINE)
    return {(names.get(a, a), names.get(b, b)) for a, b in arrows}


GENERATED: dict[str, Callable[[str], str]] = {
    "config/default.yaml": default_configuration,
    "dvc.yaml": stages,
    "docs/workflow.md": diagram,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m steps.workflow.generated",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what is out of date")
    parser.add_argument("files", nargs="*", metavar="FILE", help="these of the files; all by default")
    chosen = parser.parse_args(arguments)
    check, files = chosen.check, chosen.files or list(GENERATED)
    if unknown := [name for name in files if name not in GENERATED]:
        parser.error(f"{unknown[0]}: expected {', '.join(GENERATED)}")
    outdated = []
    try:
        for name in files:
            path = ROOT / name
            before = path.read_text(encoding="utf-8")
            if (now := GENERATED[name](before)) != before:
                outdated.append(name)
                if not check:
                    path.write_text(now, encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if outdated and check:
        print(f"{', '.join(outdated)}: out of date; run make fix", file=sys.stderr)
    elif outdated:
        print(f"written: {', '.join(outdated)}")
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
