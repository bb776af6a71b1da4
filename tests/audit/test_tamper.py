"""Records that live gateways make are verified, killed or not, and falsified ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.audit import tamper
from steps.audit.evidence import verify
from steps.audit.evidence.mutations import MUTATIONS
from steps.core.runner import Output
from steps.core.stores import Folder
from tests.audit.conftest import KEY


@pytest.mark.parametrize("killed", [False, True])
def test_records_of_live_gateways(documents: Folder, tmp_path: Path, killed: bool) -> None:
    tamper.make_record(Folder(documents.path.resolve(), "audit_package"), tmp_path / "r", KEY, killed)
    verdict = verify.check(tmp_path / "r")
    assert verdict.name == "verified"
    denied = [entry["reason"] for entry in verdict.entries if entry["decision"] == "denied"]
    assert denied == ["403 scope docs.card", "no valid token", "404 no such document"]
    assert ("start" in [entry["op"] for entry in verdict.entries]) == killed


def test_every_kind_is_judged_by_the_verifier_s_exit_code(documents: Folder, tmp_path: Path) -> None:
    settings = tamper.Settings(honest=2, mutations=2)
    tamper.main([documents.path], [], settings, Output(tmp_path / "tampering.json"))
    found = json.loads((tmp_path / "tampering.json").read_text())
    assert [case["kind"] for case in found["honest"]] == ["denied", "killed and denied"]
    assert {case["class"] for case in found["honest"]} == {"verified"}
    assert [case["mutation"] for case in found["mutations"]] == [name for name in MUTATIONS for _ in range(2)]
    assert all(case["class"] == case["expected"] for case in found["mutations"])


def test_a_verifier_that_fails_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "verify.py"
    broken.write_text("raise SystemExit(77)")
    monkeypatch.setattr(verify, "__file__", str(broken))
    with pytest.raises(RuntimeError, match="the verifier ended with 77"):
        tamper.verdict(tmp_path)
