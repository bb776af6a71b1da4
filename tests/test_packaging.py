"""What is declared is what is used: dependencies, lock, package data, who imports whom, skipped tests."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from steps.core.digest import code_files

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OURS = {"steps", "tests", "benchmarks"}


def requirements(*extras: str) -> dict[str, Requirement]:
    """Requirements by name, with those of the extras."""
    texts = [*PROJECT["project"]["dependencies"]]
    for extra in extras:
        texts += PROJECT["project"]["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def lock() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    # No address, no path, no build of one machine: names and versions only.
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    names = [canonicalize_name(pin.partition("==")[0]) for pin in pins]
    assert len(set(names)) == len(names)
    return dict(zip(names, (pin.partition("==")[2] for pin in pins), strict=True))


def test_the_lock_satisfies_what_is_declared() -> None:
    pins = lock()
    for name, requirement in requirements("dev", "slurm").items():
        assert name in pins, f"constraints.txt lacks {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement}, locked: {pins[name]}"
        assert ">=" in str(requirement.specifier), f"{requirement}: give a lower bound"


def test_the_lock_is_whole() -> None:
    """Nothing that the installed dependencies need in turn is left to chance."""
    pins = lock()
    waiting, seen = list(requirements("dev")), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(needed.name))
    assert len(seen) > 100
    assert not seen - pins.keys() - {"pip"}


def imported(folders: Iterable[str]) -> set[str]:
    """Top-level modules that the Python files import, inside functions too."""
    names = set()
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - OURS - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("folders", "extras"), [(["steps"], []), (["tests", "benchmarks"], ["dev"])], ids=["steps", "tests"]
)
def test_what_is_imported_is_declared(folders: list[str], extras: list[str]) -> None:
    declared = set(requirements(*extras))
    providers = importlib.metadata.packages_distributions()
    modules = imported(folders)
    assert "numpy" in modules
    undeclared = {
        module
        for module in modules
        if not {canonicalize_name(name) for name in providers.get(module, ())} & declared
    }
    assert not undeclared


def test_what_lies_beside_modules_is_packaged_and_part_of_their_code(tmp_path: Path) -> None:
    """Whatever its suffix, and in folders of its own."""
    shutil.copytree(ROOT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    page = tmp_path / "steps/report/page.py"
    added = ("proofs.dfy", "prompts/first.jinja")
    for name in added:
        (page.parent / name).parent.mkdir(exist_ok=True)
        (page.parent / name).write_text("text")
    source = page.read_text(encoding="utf-8")
    named = "\n    ".join(f"Path(__file__).with_name({name!r}).read_text()" for name in added)
    page.write_text(re.sub(r"(def main\([^)]*\) -> None:\n)", rf"\1    {named}\n", source), encoding="utf-8")
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('wheel'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    [wheel] = (tmp_path / "wheel").glob("*.whl")
    packaged = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("steps/")}
    files = [path for path in (tmp_path / "steps").rglob("*") if path.is_file()]
    assert packaged == {path.relative_to(tmp_path).as_posix() for path in files}
    assert {f"steps/report/{name}" for name in added} <= packaged & {*code_files("report.page", tmp_path)}
    folders = {path.parent for path in files if path.suffix == ".py"}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]


def lint_imports(folder: Path) -> str:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run(
        [*command, "--no-logo", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return done.stdout


def test_who_imports_whom() -> None:
    assert f"{len(CONTRACTS)} kept, 0 broken" in lint_imports(ROOT)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/settings.py", "import steps.neurons"),
        ("corpus/documents.py", "from steps.language_models import train"),
        ("report/page.py", "import steps.corpus"),
        ("neurons/report.py", "from steps.report import page"),
        ("neurons/report.py", "from steps.corpus.sources import files"),
        ("interp/loading.py", "import steps.report.page"),
        ("interp/forward.py", "from steps.language_models import train"),
        ("neurons/dump.py", "import steps.workflow"),
        ("neurons/costs/study.py", "from steps.workflow import configuration"),
        ("neurons/dump.py", "def f():\n    import snakemake.utils"),
        ("core/stores.py", "import dvc.api"),
        ("audit/methods/search.py", "from steps.audit.gateway import server"),
        ("audit/gateway/client.py", "def f():\n    import steps.audit.gateway.operations"),
        ("newcomer/__init__.py", ""),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "steps" / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    assert "0 broken" not in lint_imports(tmp_path)


def skips(source: str) -> list[str]:
    """The reasons for which tests of a file are skipped or may fail, with names of values in capitals."""
    tree = ast.parse(source)
    named = (
        "skip",
        "skipif",
        "skip_module",
        "importorskip",
        "xfail",
        "SkipTest",
        "skipTest",
        "skipUnless",
        "skipIf",
    )
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in named]
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    reasons = []
    for node in used:
        call = calls.get(id(node))
        given = [word.value for word in call.keywords if word.arg == "reason"] if call else []
        if call and not given and node.attr == "skip":
            given = call.args[:1]
        parts = given[0].values if given and isinstance(given[0], ast.JoinedStr) else given[:1]
        reasons.append(
            "".join(
                ast.unparse(part.value).upper()
                if isinstance(part, ast.FormattedValue)
                else ast.literal_eval(part)
                for part in parts
            )
            or f"{node.attr} without a reason"
        )
    # under another name, the search above would not see them
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    reasons += [f"from {node.module} import" for node in imports if node.module in ("pytest", "unittest")]
    return reasons


def test_every_skip_is_listed_with_its_reason() -> None:
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| `(tests/[\w/]+\.py)` \| ([^|]+) \| [^|]+ \|$", page)
    found = [
        (path.relative_to(ROOT).as_posix(), reason)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for reason in skips(path.read_text(encoding="utf-8"))
    ]
    assert found
    assert sorted(found) == sorted(listed)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import pytest\ndef test_x():\n    pytest.skip('no network')", "no network"),
        ("import pytest\ndef test_x():\n    pytest.skip(f'no {folder}')", "no FOLDER"),
        ("import pytest\n@pytest.mark.skip\ndef test_x(): pass", "skip without a reason"),
        ("import pytest\n@pytest.mark.skipif(True, reason='too slow')\ndef test_x(): pass", "too slow"),
        ("import pytest\n@pytest.mark.xfail(reason='wrong')\ndef test_x(): pass", "wrong"),
        ("import pytest\nxarray = pytest.importorskip('xarray')", "importorskip without a reason"),
        ("import pytest\npytestmark = pytest.mark.skipif(True, reason='none')", "none"),
        ("from pytest import skip\ndef test_x():\n    skip('no network')", "from pytest import"),
    ],
)
def test_a_new_skip_is_noticed(source: str, reason: str) -> None:
    assert skips(source) == [reason]
