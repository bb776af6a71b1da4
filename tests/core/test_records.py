"""What jobs take, against what they are known to take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from steps.core import records

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20

STEP = '''"""A step that holds memory and computes for as long as it is told."""

import subprocess
import sys
import textwrap
import threading
import time

from steps.core.runner import Output, run


def hold(megabytes: int, seconds: float = 0.4) -> None:
    held = bytearray(megabytes << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(seconds)


def compute(seconds: float) -> None:
    start = time.thread_time()
    while time.thread_time() - start < seconds:
        pass


def main(
    out: Output,
    own: int = 0,
    each: int = 0,
    started: int = 0,
    how: str = "",
    cpu: float = 0,
    at_once: bool = False,
) -> None:
    compute(cpu)
    hold(own, 0)
    if how in ("fork", "spawn", "forkserver"):
        import multiprocessing

        with multiprocessing.get_context(how).Pool(started if at_once else 1) as pool:
            pool.map(hold, [each] * started, chunksize=1)
            pool.map(compute, [cpu] * started, chunksize=1)
            pool.close()
            pool.join()
    if how == "programs":
        code = f"import step; step.hold({each}); step.compute({cpu})"
        command = ["bash", "-c", f'"{sys.executable}" -c "{code}"; true']
        running = []
        for _ in range(started):
            running.append(subprocess.Popen(command))
            if not at_once:
                running[-1].wait()
        for process in running:
            process.wait()
    if how == "threads":
        threads = [threading.Thread(target=compute, args=(cpu,)) for _ in range(started)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    out.write_text("made")


if __name__ == "__main__":
    run(main)
'''


def taken(folder: Path, *arguments: str, inside: str = "") -> dict[str, Any]:
    """The record of the step above, run with these arguments (from a process that runs ``inside`` first)."""
    (folder / "step.py").write_text(STEP)
    command = [sys.executable, "step.py", "--out", "out.txt", "--log", "step.log", *arguments]
    if inside:
        command = [
            sys.executable,
            "-c",
            f"import subprocess\n{inside}\nsubprocess.run({command!r}, check=True)",
        ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)
    record = json.loads((folder / "step.json").read_text())
    assert isinstance(record, dict)
    return record


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a step takes that does nothing."""
    return taken(tmp_path_factory.mktemp("nothing"))


def test_memory_that_is_held_for_a_moment_is_seen(tmp_path: Path, nothing: dict[str, Any]) -> None:
    record = taken(tmp_path, "--own", "300")
    assert record["peak_bytes"] - nothing["peak_bytes"] == pytest.approx(300 * MB, rel=0.05)
    assert record["children_peak_bytes"] == nothing["children_peak_bytes"] == 0
    assert record["memory_from"] == "VmHWM"


def test_the_process_that_started_the_job_is_not_measured(tmp_path: Path, nothing: dict[str, Any]) -> None:
    large = "held = bytearray(400 << 20)\nheld[::4096] = b'x' * len(held[::4096])"
    record = taken(tmp_path, inside=large)
    assert record["peak_bytes"] == pytest.approx(nothing["peak_bytes"], abs=20 * MB)


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver", "programs"])
@pytest.mark.parametrize("at_once", [True, False])
def test_processes_that_a_job_starts_are_measured(
    tmp_path: Path, nothing: dict[str, Any], how: str, at_once: bool
) -> None:
    words = ("--own", "100", "--each", "150", "--started", "2", "--how", how, "--cpu", "0.3")
    record = taken(tmp_path, *words, *(["--at-once"] if at_once else []))
    assert record["own_peak_bytes"] - nothing["peak_bytes"] == pytest.approx(100 * MB, abs=20 * MB)
    expected = (2 if at_once else 1) * 150 * MB
    # beyond what they hold there are their own Pythons, and helpers of multiprocessing
    assert expected < record["children_peak_bytes"] < expected + 130 * MB
    assert record["peak_bytes"] == record["own_peak_bytes"] + record["children_peak_bytes"]
    # that of the job itself, and of two others
    assert 0.9 <= record["cpu_seconds"] < 0.9 + 12 * nothing["cpu_seconds"]
    assert record["wall_seconds"] > (0.3 + 0.4 if at_once else 0.3 + 0.8)


def alone(code: str) -> None:
    """Run ``code`` in a process that has no others: whoever tests may have some."""
    begin = "import subprocess, sys, threading, time\nfrom steps.core import records\nMB = 2**20\n"
    subprocess.run([sys.executable, "-c", begin + textwrap.dedent(code)], cwd=ROOT, check=True)


def test_a_process_that_has_not_begun_is_not_taken_for_the_one_that_starts_it() -> None:
    """Between vfork and exec it has the other's memory: seen in one of so many looks, if it counted."""
    alone("""
        held = bytearray(300 * MB)
        held[::4096] = b"x" * len(held[::4096])
        records.INTERVAL = 0.001
        watch = records.Watch("a.b")
        for _ in range(150):
            subprocess.run(["true"], check=True)
        record = watch.end("done", 0)
        assert record["own_peak_bytes"] > 300 * MB, record
        assert record["children_peak_bytes"] < 30 * MB, record
    """)


def test_threads_count(tmp_path: Path, nothing: dict[str, Any]) -> None:
    record = taken(tmp_path, "--started", "3", "--how", "threads", "--cpu", "0.3")
    assert 1.2 <= record["cpu_seconds"] < 1.2 + 4 * nothing["cpu_seconds"]


def test_nobody_looks_where_no_process_is_started() -> None:
    alone("""
        records.PATIENCE = 0.1

        def looking():
            return [thread.name for thread in threading.enumerate() if thread.name == "memory"]

        watch = records.Watch("a.b")
        assert not looking()
        for _ in range(2):  # also once more, after an end
            process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            time.sleep(0.5)
            assert looking() == ["memory"]
            process.communicate(b"\\n")
            for _ in range(100):
                if not looking():
                    break
                time.sleep(0.05)
            assert not looking()
        record = watch.end("done", 0)
        assert record["children_peak_bytes"] > 3 * MB, record
        assert record["step"] == "a.b"
    """)


def test_without_proc_the_record_says_what_it_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.setattr(records, "PROC", tmp_path / "absent")
    record = records.Watch("a.b").end("done", 0)
    assert record["children_peak_bytes"] is None
    assert "ru_maxrss" in record["memory_from"]
    assert 10 * MB < record["peak_bytes"] == record["own_peak_bytes"]
    assert record["wall_seconds"] > 0


def test_records_are_read_and_what_is_none_is_passed_over(tmp_path: Path) -> None:
    whole = {"outcome": "done", "wall_seconds": 1.5, "cpu_seconds": 1, "peak_bytes": 100}
    others: list[Any] = [
        *({**whole, "outcome": outcome} for outcome in ("failed", "interrupted", "terminated")),
        *({**whole, "peak_bytes": value} for value in (None, "1", True, -1, float("nan"), 10**400)),
        *([whole], {}, "done"),
        {name: value for name, value in whole.items() if name != "wall_seconds"},
    ]
    (tmp_path / "a").mkdir()
    for number, other in enumerate(others):
        (tmp_path / "a" / f"{number}.json").write_text(json.dumps(other))
    for name, text in (("cut", json.dumps(whole)[:-3]), ("deep", "[" * 100_000), ("none", "")):
        (tmp_path / "a" / f"{name}.json").write_text(text)
    (tmp_path / "a" / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "a" / "folder.json").mkdir()
    (tmp_path / "a" / "right.json").write_text(json.dumps(whole))
    (tmp_path / "right.json").write_text(json.dumps({**whole, "wall_seconds": 2}))
    found = records.read(f"{tmp_path}/**/*.json")
    assert sorted(record["wall_seconds"] for record in found) == [1.5, 2]


@pytest.mark.parametrize(
    ("log", "record"),
    [("a/x.log", "a/x.json"), ("x.y.log", "x.y.json"), ("x.json", "x.json.json"), ("x", "x.json")],
)
def test_a_record_lies_beside_its_log(log: str, record: str) -> None:
    assert records.path_of(Path(log)) == Path(record)
