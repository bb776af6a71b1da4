"""One process per claim: limits, and nothing left behind. With a stand-in that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steps.core.errors import UserError
from steps.dafny.verifier import process
from steps.dafny.verifier.locate import Tools, Verifier
from steps.dafny.verifier.process import dafny_verify
from steps.dafny.verifier.results import of_process

SHORT = Verifier(seconds=1)


def calls(folder: Path) -> list[tuple[int, list[str]]]:
    """Process and arguments of each call of the stand-in."""
    return [(pid, words) for pid, words in map(json.loads, (folder / "calls").read_text().splitlines())]


def group_is_gone(pid: int, within: float = 5.0) -> bool:
    """Whether no process of a group is left."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_verdicts(stand_in: Tools) -> None:
    def verdict(text: str) -> str:
        return dafny_verify(text, stand_in, Verifier()).verdict

    assert verdict("method A\nmethod B\n") == "verified"
    assert verdict("method A\nFAIL\n") == "failed"
    assert verdict("UNRESOLVED") == "resolve"
    assert verdict("// nothing") == "nothing"
    assert verdict('include "x.dfy"\nmethod A') == "unsupported"


def test_dafny_sees_only_names_that_we_made(stand_in: Tools, tmp_path: Path) -> None:
    dafny_verify("method A", stand_in, Verifier(resource_limit=4321))
    [(_, words)] = calls(tmp_path)
    assert words[-1] == "program.dfy"
    assert words[words.index("--resource-limit") + 1] == "4321"
    assert words[words.index("--verification-time-limit") + 1] == "0"
    assert "--allow-warnings" in words
    assert str(tmp_path) not in words[-1]


def test_diagnostics_keep_their_places_and_warnings(stand_in: Tools) -> None:
    verdict = dafny_verify("method A\n WARN FAIL\n", stand_in, Verifier())
    assert [(one.line, one.severity) for one in verdict.diagnostics] == [(0, 2), (1, 1)]


@pytest.mark.parametrize(
    ("what", "verdict"), [("hang", "timeout"), ("crash", "crash"), ("mute", "crash"), ("half", "crash")]
)
def test_a_dafny_that_misbehaves_gives_no_verdict(
    stand_in: Tools, tmp_path: Path, what: str, verdict: str
) -> None:
    found = dafny_verify(f"method A // MISBEHAVE {what} ", stand_in, SHORT)
    assert found.verdict == verdict
    assert group_is_gone(calls(tmp_path)[0][0])


def test_one_that_writes_without_end_is_ended(
    stand_in: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MOST_OUTPUT", 1_000_000)
    found = dafny_verify("method A // MISBEHAVE flood ", stand_in, Verifier(seconds=60))
    assert (found.verdict, found.message) == ("crash", "it wrote without end")
    assert group_is_gone(calls(tmp_path)[0][0])


def test_one_that_eats_memory_is_ended(stand_in: Tools, tmp_path: Path) -> None:
    found = dafny_verify("method A // MISBEHAVE eat ", stand_in, Verifier(seconds=60, memory_mb=500))
    assert (found.verdict, found.message) == ("timeout", "ended at its limit of memory")
    assert group_is_gone(calls(tmp_path)[0][0])


def test_what_it_started_ends_with_it(stand_in: Tools, tmp_path: Path) -> None:
    """As Z3 does, which would work on."""
    assert dafny_verify("method A // MISBEHAVE child ", stand_in, Verifier()).verdict == "verified"
    assert group_is_gone(calls(tmp_path)[0][0])


def test_a_killed_step_leaves_no_process(stand_in: Tools, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from steps.dafny.verifier.locate import Tools, Verifier\n"
        "from steps.dafny.verifier.process import dafny_verify\n"
        f"tools = Tools(Path({str(stand_in.dafny)!r}), Path({str(stand_in.z3)!r}))\n"
        "dafny_verify('method A // MISBEHAVE hang ', tools, Verifier())\n"
    )
    step = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until = time.monotonic() + 30
    while not (tmp_path / "calls").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(step.pid, signal.SIGKILL)  # the step and all of its group
    step.wait()
    assert group_is_gone(calls(tmp_path)[0][0])


def test_a_z3_that_is_missing_is_no_verdict() -> None:
    where = {"filename": None, "range": {"start": {"line": -1, "character": -2}}}
    said = {
        "location": where,
        "severity": 1,
        "source": "Verifier",
        "defaultFormatMessage": "Z3 not found at /x",
    }
    output = json.dumps({"type": "diagnostic", "value": said}).encode()
    with pytest.raises(UserError, match="Z3: Dafny cannot use it .*dafny.verifier.solver"):
        of_process(output, "itself 4")


@pytest.mark.parametrize(
    ("ending", "code", "verdict"),
    [
        ("2 verified, 0 errors", 0, "verified"),
        ("2 verified, 0 errors, 1 out of resource", 4, "out_of_resource"),
        ("2 verified, 1 error, 1 time out", 4, "failed"),
        ("2 verified, 0 errors, 1 time out", 4, "timeout"),
        ("2 verified, 0 errors, 1 inconclusive", 4, "inconclusive"),
        ("2 verified, 0 errors, 1 whatever", 4, "crash"),
        ("2 verified, 0 errors", 4, "crash"),
        ("0 verified, 0 errors", 0, "nothing"),
    ],
)
def test_counts_behind_the_errors_count(ending: str, code: int, verdict: str) -> None:
    line = {"type": "status", "value": f"\nDafny program verifier finished with {ending}\n"}
    assert of_process(json.dumps(line).encode(), f"itself {code}").verdict == verdict


def test_lines_that_are_no_json_are_passed_over() -> None:
    assert of_process(b"\xff\xfe\n{\n[]\n", "itself 134").verdict == "crash"


def test_diagnostics_of_one_place_have_one_order() -> None:
    """Whatever order Dafny reports them in, and whatever the hashes of this process."""

    def place(line: int) -> dict[str, Any]:
        return {"filename": "program.dfy", "range": {"start": {"line": line, "character": 0, "pos": 0}}}

    def line(about: int) -> str:
        value = {
            "location": place(6),
            "severity": 1,
            "source": "Verifier",
            "defaultFormatMessage": "a postcondition could not be proved",
            "relatedInformation": [{"location": place(about), "defaultFormatMessage": "this one"}],
        }
        return json.dumps({"type": "diagnostic", "value": value})

    found = of_process("\n".join(line(about) for about in (3, 9, 1, 7, 2, 8, 5, 4)).encode(), "itself 4")
    assert [one.related[0][0] for one in found.diagnostics] == [0, 1, 2, 3, 4, 6, 7, 8]
