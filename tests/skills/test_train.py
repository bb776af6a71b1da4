"""The step that learns skills: what it writes, killed or not, and the documented call on it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from steps.core.errors import UserError
from steps.core.resume import Resumable
from steps.core.runner import Output
from steps.core.settings import validate
from steps.core.stores import Folder
from steps.skills import train
from steps.skills.learning.bases import BASES
from steps.skills.learning.skill import load
from steps.skills.learning.tabular import Settings
from steps.workflow import skills
from steps.workflow.configuration import Config
from tests.skills.conftest import SETS, TINY

ROOT = Path(__file__).resolve().parents[2]


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_set_has_sixteen_skills_a_card_and_a_curve(ledgers: list[Path]) -> None:
    for ledger, (base, mode) in zip(ledgers, SETS, strict=True):
        skills = load(ledger)
        assert len(skills) == 16
        assert (skills.card["base"], skills.card["mode"], skills.card["seed"]) == (base, mode, 1)
        assert skills.card["steps"] == 2 * (16 * 8 + 64) * 3
        folder = Folder(ledger, "skills").check_all()
        curve = json.loads((folder.folder / "curve.json").read_text())
        assert [point["steps"] for point in curve] == [576, 1152]
        assert curve[0]["known"] < curve[1]["known"]
        assert len(curve[0]["reward"]) == (5 if mode == "focused" else 1)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    ledgers: list[Path], tmp_path: Path
) -> None:
    found = {}
    for name, seed in (("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        train.main("vic", "unfocused", seed, TINY, Output(tmp_path / name / "ledger.json"))
        found[name] = hashes(tmp_path / name)
    assert found["again"] == hashes(ledgers[1].parent)
    assert found["other"]["skills.safetensors"] != found["again"]["skills.safetensors"]


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    ledgers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    steps = Resumable.steps

    def dying(self, total, label):  # type: ignore[no-untyped-def]
        for step in steps(self, total, label):
            if step == stop:
                raise KeyboardInterrupt
            yield step
        raise KeyboardInterrupt  # before anything is written

    settings = TINY.model_copy(update={"save_seconds": 0})
    out = Output(tmp_path / "ledger.json")
    monkeypatch.setattr(Resumable, "steps", dying)
    with pytest.raises(KeyboardInterrupt):
        train.main("vic", "unfocused", 1, settings, out)
    monkeypatch.undo()
    assert (tmp_path / ".learning.safetensors").exists() == (stop > 0)
    train.main("vic", "unfocused", 1, settings, out)
    assert hashes(tmp_path) == hashes(ledgers[1].parent)


@pytest.mark.parametrize(
    ("base", "mode", "seed", "says"),
    [
        ("lsd", "focused", 1, "--base: found 'lsd', expected one of vic, diayn"),
        ("vic", "blurred", 1, "--mode: found 'blurred', expected one of focused, unfocused"),
        ("vic", "focused", -1, "--seed: found -1"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, base: str, mode: str, seed: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train.main(base, mode, seed, TINY, Output(tmp_path / "ledger.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_job_gets_the_settings_of_its_own_base_alone() -> None:
    """Else a changed setting of one would train the other again."""
    plain = Config()
    algorithm = plain.skills.train.diayn.model_copy(update={"weight": 3.0})
    learning = plain.skills.train.model_copy(update={"diayn": algorithm})
    changed = plain.model_copy(update={"skills": plain.skills.model_copy(update={"train": learning})})
    for base in BASES:
        job = SimpleNamespace(base=base, mode="focused", seed=1)
        before, after = (skills.train_settings(config)(job) for config in (plain, changed))
        assert (before == after) == (base == "vic")
        read = validate(Settings, json.loads(after), "settings")
        assert read.algorithm(base) == learning.algorithm(base)
        given = read.model_fields_set
        assert given == Settings.model_fields.keys() - {"save_seconds", *BASES} | {base}


def test_the_documented_example_runs(ledgers: list[Path]) -> None:
    """The Python block of docs/skills.md, on skills that were learned for a moment."""
    page = (ROOT / "docs/skills.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = "data/skills/default/fourrooms/vic-focused/seed-1/ledger.json"
    assert path in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace(path, str(ledgers[0]))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "object 5,5 #1 ('object 5,5',)"
