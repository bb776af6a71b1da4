"""A run that is killed anywhere ends with the same findings, loses no receipt and leaves no process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from steps.audit import run
from steps.audit.evidence import verify
from steps.audit.gateway.process import private_folder
from steps.audit.gateway.server import Config as GatewayConfig
from steps.audit.methods import catalogue
from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.settings import validate
from steps.core.stores import Folder, Ledger, read_json
from steps.workflow.audit import Audit
from tests.audit.conftest import AUDIENCE, KEY, START_SECONDS, write_package
from tests.audit.gateway.test_process import gone
from tests.warm.start import environment

SETTINGS = {"budgets": {"q1": 400}}


class Case(NamedTuple):
    package: Path
    world: Path
    sealed: Path

    def command(self, out: Path) -> list[str]:
        inputs = [f"--{name}={getattr(self, name)}" for name in self._fields]
        settings = json.dumps(SETTINGS)
        return [
            sys.executable,
            "-m",
            "steps.audit.run",
            *inputs,
            "--settings",
            settings,
            "--out",
            f"{out}/ledger.json",
        ]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Case:
    """A package with a model that was never trained."""
    from steps.audit.package import Documents, card_text
    from steps.language_models.learning import loop
    from tests.audit.test_package import Trained

    folder = tmp_path_factory.mktemp("case")
    made = Folder(world, "audit_world")
    ids = len(read_json(made.check("vocabulary.json")))
    settings = loop.Settings(layers=2, d_model=16, heads=2)
    ledger = Ledger(folder / "package/ledger.json", "audit_package", {}, ())
    loop.save(loop.initial_model(loop.configuration(settings, ids, 24, 1), 0), ledger, "model")
    documents = Documents(Trained(), made, "amber")  # type: ignore[arg-type]
    texts: dict[str, Any] = {
        "docs/card/README.md": card_text(documents.card),
        "docs/config/training.json": json.dumps(documents.config),
        "docs/manifest/manifest.json": json.dumps({"shards": documents.shards}),
        "docs/evals/evaluations.json": json.dumps(documents.evals),
        "filter.json": '{"blocked": [3], "answer": [4]}',
    }
    for name, text in texts.items():
        ledger.place(name).write_text(text)
        ledger.record(name)
    ledger.finish({"model": AUDIENCE, "layers": 2, "parameters": 20_000})
    return Case(folder / "package/ledger.json", world, made.folder / "sealed/amber.json")


@pytest.fixture(scope="module")
def undisturbed(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(case.command(out), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "arm B, q1, random search: 400 queries to spend" in done.stderr
    return out


def test_a_run_is_verified_and_keeps_no_key(undisturbed: Path) -> None:
    verdict = verify.check(undisturbed)
    assert verdict.name == "verified"
    assert {path.name for path in undisturbed.iterdir()} - {".finished.jsonl"} == {
        *("ledger.json", "chain.jsonl", "closing.json", "receipts.jsonl", "findings.json", "salt.txt")
    }
    first = verdict.entries[0]
    assert first["about"]["isolation"] == "process"
    denied = [entry["reason"] for entry in verdict.entries if entry["decision"] == "denied"]
    assert denied == ["403 scope logprobs", "403 scope logprobs"]
    found = read_json(undisturbed / "findings.json")
    assert len(found) == 11
    spent = Counter[str]()
    for entry in verdict.entries:
        spent[entry["jti"].partition("-")[2]] += entry["meters"].get("queries", 0)
    assert {f"{one['arm']}-{one['question']}": one["queries"] for one in found} == {
        name: count for name, count in spent.items() if name
    }


def processes(parent: int) -> dict[str, int]:
    """The gateway and the auditor of a supervisor."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if above == parent and words[1:2] == [b"-m"]:
                found[words[2].decode().rpartition(".")[2]] = int(entry.name)
    return found


def receipts(folder: Path) -> set[str]:
    """The entries that the auditor of a run that is going on has receipts for."""
    path = folder / ".auditor/receipts.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    notes = [json.loads(line) for line in lines if line.endswith("\n")]
    return {note["receipt"]["entry"] for note in notes if "receipt" in note}


def kill_once(
    victim: str, command: list[str], out: Path, after: int
) -> tuple[subprocess.Popen[bytes], set[str]]:
    """Start a run in processes of their own, and kill one of them after so many further receipts."""
    before = len(receipts(out))
    started = subprocess.Popen(command, env=environment(warm=False), stderr=subprocess.PIPE)
    while started.poll() is None and len(receipts(out)) < before + after:
        time.sleep(0.005)
    assert started.poll() is None
    children = processes(started.pid)
    assert children.keys() == {"server", "catalogue"}
    os.kill(started.pid if victim == "supervisor" else children[victim], signal.SIGKILL)
    kept = receipts(out)
    if victim == "supervisor":
        started.wait()
        assert all(gone(child, 5) for child in children.values())
    return started, kept


def test_killed_anywhere_it_ends_with_the_same_findings(
    case: Case, undisturbed: Path, tmp_path: Path
) -> None:
    command = case.command(tmp_path)
    started, first = kill_once("supervisor", command, tmp_path, 20)
    started.stderr.close()  # type: ignore[union-attr]
    assert not (tmp_path / "ledger.json").exists()
    started, second = kill_once("server", command, tmp_path, 20)
    while started.poll() is None and len(receipts(tmp_path)) < len(second) + 20:
        time.sleep(0.005)
    third = receipts(tmp_path)
    os.kill(processes(started.pid)["catalogue"], signal.SIGKILL)
    _, said = started.communicate()
    assert started.returncode == 0, said.decode()
    assert b"the gateway ended with -9" in said
    assert b"the auditor ended with -9" in said
    verdict = verify.check(tmp_path)
    assert verdict.name == "verified"
    chain = {*(tmp_path / "chain.jsonl").read_text().splitlines()}
    assert len(first) < len(second) < len(third)
    assert first | second | third <= chain
    assert (tmp_path / "findings.json").read_bytes() == (undisturbed / "findings.json").read_bytes()

    def charged(folder: Path) -> Counter[tuple[str, str]]:
        found = Counter[tuple[str, str]]()
        for line in (folder / "chain.jsonl").read_text().splitlines():
            entry = json.loads(line)
            found[entry["jti"].partition("-")[2], entry["decision"]] += entry["meters"].get("queries", 0)
        return found

    assert charged(tmp_path) == charged(undisturbed)
    assert not (tmp_path / ".key").exists()
    assert not (tmp_path / ".auditor").exists()


def test_killed_when_the_key_is_gone_it_keeps_its_records(
    case: Case, undisturbed: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    (out / "ledger.json").unlink()
    done = subprocess.run(case.command(out), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in undisturbed.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_auditor_that_is_refused_a_call_is_not_started_again(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = Folder(case.package.resolve(), "audit_package")
    budgets = run.Budgets().model_dump() | {"q1": 320, "q2": 300}
    with private_folder() as private:
        gateway = GatewayConfig(
            package=str(package.path),
            folder=str(tmp_path),
            address=str(private / "s"),
            key=KEY.private_bytes_raw().hex(),
            genesis={},
        )
        auditor = catalogue.Config(
            address=gateway.address,
            public_key=KEY.public_key().public_bytes_raw().hex(),
            folder=str(tmp_path),
            prior=read_json(Folder(case.world, "audit_world").check("prior.json")),
            tokens=run.tokens(KEY, package.attributes, budgets),
            budgets=budgets,
            sites=[],
            seed=0,
            patience=START_SECONDS,
        )
        refused = r"refused a call \(arm W, q2, tuning: 429 budget of queries; raise audit.run.budgets.q2\)"
        with pytest.raises(UserError, match=refused):
            run.supervise(gateway, auditor, START_SECONDS, private)
    assert "starting it again" not in caplog.text


def test_budgets_that_patching_would_exceed_are_refused_before_anything_runs(
    case: Case, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"run": {"budgets": {"q4": 672}}, "organism": {"layers": 3}}
    validate(Audit, sections, "audit")
    sections["organism"]["layers"] = 4
    with pytest.raises(UserError, match=r"audit.run.budgets.q4 \(672\) to be at least 744: patching takes"):
        validate(Audit, sections, "audit")
    flat = write_package(tmp_path / "package/ledger.json", {}, layers=1)
    with pytest.raises(UserError, match="expected a model of at least 2 blocks"):
        run.main(flat.path, case.world, case.sealed, run.Settings(), Output(tmp_path / "out/ledger.json"))
    assert not (tmp_path / "out").exists()


def test_sigterm_closes_the_chain_and_the_run_can_go_on(case: Case, tmp_path: Path) -> None:
    started = subprocess.Popen(case.command(tmp_path), env=environment(warm=False), stderr=subprocess.PIPE)
    while started.poll() is None and len(receipts(tmp_path)) < 20:
        time.sleep(0.005)
    children = processes(started.pid)
    started.terminate()
    _, said = started.communicate()
    assert (started.returncode, b"terminated; start again" in said) == (143, True)
    assert all(gone(child, 5) for child in children.values())
    last = json.loads((tmp_path / "chain.jsonl").read_text().splitlines()[-1])
    assert last["op"] == "close"
    assert (tmp_path / ".key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "ledger.json").exists()


def test_a_package_that_is_damaged_is_one_line(case: Case, tmp_path: Path) -> None:
    shutil.copytree(case.package.parent, tmp_path / "package")
    weights = tmp_path / "package/model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    damaged = case._replace(package=tmp_path / "package/ledger.json")
    done = subprocess.run(
        damaged.command(tmp_path / "out"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "model.safetensors: its contents differ from the hash" in done.stderr
    assert done.stderr.count("\n") == 1
