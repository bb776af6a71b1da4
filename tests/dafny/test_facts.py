"""What Dafny 4.11 does that one would not guess, each with the real tool; docs/dafny.md numbers them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steps.core.errors import UserError
from steps.core.records import _descendants
from steps.dafny.judges.strict import refusals
from steps.dafny.syntax.tokens import Lines
from steps.dafny.verifier.locate import Tools, Verifier, environment
from steps.dafny.verifier.pool import Server
from steps.dafny.verifier.process import dafny_verify
from steps.dafny.verifier.results import clock_bound

GOOD = "method M() { assert 1 < 2; }\n"


def run(dafny: Tools, folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`dafny verify` as anybody would call it, in ``folder``."""
    return subprocess.run(
        [str(dafny.dafny), "verify", "--cores", "1", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def solver(dafny: Tools) -> tuple[str, str]:
    return "--solver-path", str(dafny.z3)


def diagnostics(output: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [row["value"] for row in rows if row["type"] == "diagnostic"]


def test_1_a_missing_z3_looks_like_a_failed_proof(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.dfy").write_text(GOOD)
    done = run(dafny, tmp_path, "--json-output", "--solver-path", "/nowhere/z3", "a.dfy")
    assert done.returncode == 4
    [said] = diagnostics(done.stdout)
    assert (said["source"], said["location"]["filename"]) == ("Verifier", None)
    missing = Tools(dafny.dafny, Path("/nowhere/z3"))
    with pytest.raises(UserError, match="Z3: Dafny cannot use it"):
        dafny_verify(GOOD, missing, Verifier())
    with (
        Server(missing, Verifier(seconds=60)) as server,
        pytest.raises(UserError, match="Z3: Dafny cannot use it"),
    ):
        server.ask(GOOD)


def test_1_a_missing_include_and_a_filter_that_matches_nothing(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.dfy").write_text('include "none.dfy"\n' + GOOD)
    assert run(dafny, tmp_path, *solver(dafny), "a.dfy").returncode == 1
    (tmp_path / "b.dfy").write_text("method M() { assert 2 < 1; }\n")
    done = run(dafny, tmp_path, *solver(dafny), "--filter-symbol", "Other", "b.dfy")
    assert done.returncode == 0
    assert "0 verified" in done.stdout


def test_2_warnings_give_the_code_of_errors(dafny: Tools, tmp_path: Path) -> None:
    text = "method M()\n  ensures true;\n{ }\n"  # a semicolon of old
    (tmp_path / "a.dfy").write_text(text)
    assert run(dafny, tmp_path, *solver(dafny), "a.dfy").returncode == 2
    verdict = dafny_verify(text, dafny, Verifier())
    assert verdict.verdict == "verified"
    assert [one.severity for one in verdict.diagnostics] == [2]


PLACES = '// 漢字 𝔸\r\nmethod M()\r{\n  /* \f\u0085\u2028 */ assert {:error "漢𝔸"} 1 == 2;\r\n}\n'


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_3_places_map_back_to_the_text(dafny: Tools, tmp_path: Path, server: Server, mark: str) -> None:
    text = mark + PLACES
    expected = text.index("1 == 2") + len("1 ")
    [claim] = [one for one in dafny_verify(text, dafny, Verifier()).diagnostics if one.severity == 1]
    [warm] = server.ask(text).diagnostics
    lines = Lines(text)
    places = {lines.offset(one.line, one.character) for one in (claim, warm)}
    assert len(places) == 1
    assert places <= set(range(text.index("assert"), expected + 1))
    assert claim.line == warm.line == 3
    (tmp_path / "a.dfy").write_bytes(text.encode())
    [raw] = diagnostics(run(dafny, tmp_path, *solver(dafny), "--json-output", "a.dfy").stdout)
    start = raw["location"]["range"]["start"]
    assert start["line"] == 4
    assert start["pos"] == len(text[: places.pop()].encode()) - len(mark.encode())


def test_3_a_parse_error_has_a_line_and_no_position(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.dfy").write_text("method M()\n{ x := }\n")
    said = diagnostics(run(dafny, tmp_path, *solver(dafny), "--json-output", "a.dfy").stdout)
    start = said[0]["location"]["range"]["start"]
    assert (start["line"], start["pos"]) == (2, 0)


def test_4_what_was_skipped_is_no_proof(dafny: Tools, server: Server) -> None:
    text = "method {:verify false} M() { assert false; }\n"
    assert server.ask(text).state == "proved"  # status 5, as of what was verified
    assert dafny_verify(text, dafny, Verifier()).verdict == "nothing"


HARD = """lemma Hard(x: int, y: int, z: int)
  requires x > 2 && y > 2 && z > 2
  ensures x * x * x + y * y * y != z * z * z
{ }
"""


def test_4_out_of_resource_is_told_by_the_message_alone(dafny: Tools) -> None:
    limited = Verifier(resource_limit=100_000)
    with Server(dafny, limited) as server:
        answer = server.ask(HARD)
    assert answer.state == "failed"
    assert ["out of resource" in one.message for one in answer.diagnostics] == [True]
    verdict = dafny_verify(HARD, dafny, limited)
    assert (verdict.verdict, verdict.errors) == ("out_of_resource", 0)


def test_4_notices_of_a_closed_document_arrive_within_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    messages = server._messages

    def noted() -> Any:
        for message, size in messages():
            heard.append(message)
            yield message, size

    monkeypatch.setattr(server, "_messages", noted)
    server.ask("method A() { assert false; }\n")
    del heard[:]
    answer = server.ask("method B() { }\nmethod C() { assert 1 == 3; }\n")
    assert [one.line for one in answer.diagnostics] == [1]
    published = [one["params"] for one in heard if one.get("method") == "textDocument/publishDiagnostics"]
    late = [one for one in published if one["uri"] != published[-1]["uri"]]
    assert late
    assert all(one["diagnostics"] == [] for one in late)


def test_5_the_server_obeys_a_project_file_and_verify_does_not(
    dafny: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dfyconfig.toml").write_text("[options]\nwarn-shadowing = true\n")
    text = "method M() { var x := 1; if true { var x := 2; } }\n"
    (tmp_path / "a.dfy").write_text(text)
    assert "hadow" not in run(dafny, tmp_path, *solver(dafny), "a.dfy").stdout
    found: list[dict[str, Any]] = []
    with Server(dafny, Verifier(seconds=60)) as server:
        server.ask(GOOD)
        about = {"uri": (tmp_path / "a.dfy").as_uri(), "languageId": "dafny", "version": 1, "text": text}
        for uri in (about["uri"], "untitled:a.dfy"):
            server._send("textDocument/didOpen", {"textDocument": about | {"uri": uri}})
            for message, _ in server._messages():
                params = message.get("params") or {}
                if params.get("uri") == uri and message["method"].endswith("publishDiagnostics"):
                    found += [one | {"uri": uri} for one in params["diagnostics"]]
                if params.get("uri") == uri and message["method"].endswith("symbolStatus"):
                    states = {one["status"] for one in params["namedVerifiables"]}
                    if states == {5}:
                        break
    assert {one["uri"] for one in found if "hadow" in one["message"]} == {about["uri"]}


@pytest.mark.parametrize("attribute", ["{:rlimit 100}", "{:resource_limit 100000}"])
def test_6_a_limit_in_the_text_wins(dafny: Tools, attribute: str) -> None:
    text = HARD.replace("lemma Hard", f"lemma {attribute} Hard")
    verdict = dafny_verify(text, dafny, Verifier(resource_limit=2_000_000_000))
    assert verdict.verdict == "out_of_resource"
    assert refusals(HARD, text)
    assert not clock_bound(text)


def test_6_a_limit_in_seconds_brings_the_clock_back(dafny: Tools) -> None:
    text = HARD.replace("lemma Hard", "lemma {:timeLimit 1} Hard")
    assert dafny_verify(text, dafny, Verifier(resource_limit=2_000_000_000)).verdict == "timeout"
    assert clock_bound(text)
    assert clock_bound("@TimeLimit(3)\n" + HARD)
    assert not clock_bound(HARD + "// {:timeLimit 1}\n")
    assert refusals(HARD, text)


def test_7_encodings_are_taken_without_a_word(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.dfy").write_bytes(b"// \xff\n" + GOOD.encode())
    (tmp_path / "b.dfy").write_bytes(GOOD.encode("utf-16"))
    for name in ("a.dfy", "b.dfy"):
        done = run(dafny, tmp_path, *solver(dafny), name)
        assert (done.returncode, "1 verified" in done.stdout) == (0, True)


def test_7_names_are_read_as_more_than_names(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "good.dfy").write_text(GOOD)
    (tmp_path / "arguments.dfy").write_text("good.dfy\n")
    assert "1 verified" in run(dafny, tmp_path, *solver(dafny), "@arguments.dfy").stdout
    (tmp_path / "a.txt").write_text(GOOD)
    assert run(dafny, tmp_path, *solver(dafny), "a.txt").returncode == 1


def test_8_included_files_are_not_verified(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "wrong.dfy").write_text("method Wrong() { assert false; }\n")
    text = 'include "wrong.dfy"\n' + GOOD
    (tmp_path / "a.dfy").write_text(text)
    done = run(dafny, tmp_path, *solver(dafny), "a.dfy")
    assert done.returncode == 0
    verdict = dafny_verify(text, dafny, Verifier())
    assert (verdict.verdict, verdict.message) == ("unsupported", 'it includes "wrong.dfy"')
    assert refusals(GOOD, text)


def test_9_a_limit_of_addresses_ends_it_at_its_start(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.dfy").write_text(GOOD)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    done = run(dafny, tmp_path, *solver(dafny), "a.dfy", preexec_fn=limit)
    assert done.returncode not in (0, 4)
    assert dafny_verify(GOOD, dafny, Verifier(heap_mb=200)).verdict == "verified"


def z3s(above: int) -> set[int]:
    """The solvers among what a process has started."""
    found = set()
    for pid in _descendants(above):
        with contextlib.suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/exe")).name.startswith("z3"):
                found.add(pid)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] != b"Z"
    except OSError:
        return False


def until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_10_z3_outlives_a_killed_dafny(dafny: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.dfy").write_text(HARD)
    started = subprocess.Popen(
        [str(dafny.dafny), "verify", *solver(dafny), "--verification-time-limit", "0", "a.dfy"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert until(lambda: z3s(started.pid), 60)
        solvers = z3s(started.pid)
        time.sleep(0.5)
        started.kill()
        started.wait()
        time.sleep(1)
        assert any(map(alive, solvers))
    finally:
        os.killpg(started.pid, signal.SIGKILL)


def test_10_a_killed_step_leaves_neither(dafny: Tools) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from steps.dafny.verifier.locate import Tools, Verifier\n"
        "from steps.dafny.verifier.process import dafny_verify\n"
        "tools = Tools(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "dafny_verify(sys.argv[3], tools, Verifier(resource_limit=2_000_000_000))\n"
    )
    step = subprocess.Popen(
        [sys.executable, "-c", code, str(dafny.dafny), str(dafny.z3), HARD], start_new_session=True
    )
    assert until(lambda: z3s(step.pid), 60)
    started = set(_descendants(step.pid))
    os.killpg(step.pid, signal.SIGKILL)
    step.wait()
    assert until(lambda: not any(map(alive, started)), 5)
