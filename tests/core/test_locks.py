"""Two jobs that write the same: the second waits for the first, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steps.core import locks
from steps.core.locks import held
from steps.core.stores import Folder, Ledger
from tests.core.test_stores import contents

ROOT = Path(__file__).resolve().parents[2]

STEP = '''
import sys
import time
from pathlib import Path

from steps.core.runner import Output, run
from steps.core.stores import Ledger


def main(out: Output, count: int, pause: float) -> None:
    """Files one after the other."""
    ledger = Ledger(out, "things", {"count": count})
    for number in range(count):
        if str(number) not in ledger:
            time.sleep(pause)
            ledger.place(str(number)).write_text(f"contents of {number}")
            ledger.record(str(number))
            print("made", number, flush=True)
    ledger.finish({})


if __name__ == "__main__":
    run(main)
'''

HOLDER = """
import os
import sys
import time
from pathlib import Path

from steps.core.locks import held

with held(*map(Path, sys.argv[2:])):
    if sys.argv[1] == "fork" and os.fork() == 0:
        sys.exit()  # a copy that ends: its parent's lock stays
    if sys.argv[1] == "fork":
        os.wait()
    print("held", flush=True)
    time.sleep(600)
"""

COUNT = 30
"""Files that a job makes."""

COUNTER = """
import sys
from pathlib import Path

from steps.core import locks
from steps.core.locks import held

locks._LONGEST_PAUSE = 0.001
file = Path(sys.argv[1])
for _ in range(200):
    with held(file):
        file.write_text(str(int(file.read_text()) + 1))
"""


@contextlib.contextmanager
def started(folder: Path, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    script = folder / f"{hashlib.sha256(code.encode()).hexdigest()[:8]}.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str], stderr: bool = False) -> str:
    stream = process.stderr if stderr else process.stdout
    assert stream is not None
    return stream.readline()


def job(folder: Path, out: Path, pause: float = 0.05) -> contextlib.AbstractContextManager:
    """A job that makes ``COUNT`` files, one every ``pause`` seconds."""
    return started(folder, STEP, "--out", str(out), "--count", str(COUNT), "--pause", str(pause))


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """What a job leaves that nobody disturbs."""
    with job(tmp_path, tmp_path / "alone/ledger.json", pause=0) as process:
        assert process.wait() == 0
    return tmp_path / "alone"


def test_of_two_jobs_the_second_waits_and_the_ledger_names_everything(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "x/ledger.json"
    with job(tmp_path, out) as first:
        assert line_of(first) == "made 0\n"
        os.kill(first.pid, signal.SIGSTOP)  # nothing depends on how fast they are
        with job(tmp_path, out) as second:
            said = line_of(second, stderr=True)
            os.kill(first.pid, signal.SIGCONT)
            assert first.communicate()[0].endswith(f"made {COUNT - 1}\n")
            made, _ = second.communicate()
    assert (first.returncode, second.returncode, made) == (0, 0, "")
    assert f"{out}: waiting for another job that writes it: " in said
    assert f" on {os.uname().nodename}, process {first.pid}, since 2" in said
    assert "to continue, end that one, or delete .ledger.json.lock where its machine is gone\n" in said
    assert contents(tmp_path / "x") == contents(alone)
    Folder(out, "things").check_all()


def test_the_second_goes_on_where_the_first_was_killed(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "x/ledger.json"
    with job(tmp_path, out) as first:
        assert line_of(first) == "made 0\n"
        os.kill(first.pid, signal.SIGSTOP)
        with job(tmp_path, out) as second:
            assert "waiting" in line_of(second, stderr=True)
            first.kill()
            made = second.communicate()[0].splitlines()
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 0)
    assert made[-1] == f"made {COUNT - 1}"
    assert "made 0" not in made
    assert contents(tmp_path / "x") == contents(alone)


def test_a_lock_file_that_a_killed_job_left_locks_nothing(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "x/ledger.json"
    with job(tmp_path, out, pause=600) as killed:
        while not (tmp_path / "x/.ledger.json.lock").exists():
            time.sleep(0.01)
        killed.kill()
    assert (tmp_path / "x/.ledger.json.lock").exists()
    with job(tmp_path, out) as process:
        assert process.communicate()[1] == ""
    assert contents(tmp_path / "x") == contents(alone)


def test_a_job_that_fails_leaves_no_lock_file(tmp_path: Path) -> None:
    def main() -> None:
        ledger = Ledger(tmp_path / "x/ledger.json", "things", {})
        assert ledger.place("a").parent.is_dir()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        main()
    gc.collect()
    assert sorted(contents(tmp_path / "x")) == [".finished.jsonl"]


@pytest.mark.parametrize("how", ["", "fork"])
def test_what_another_process_has_is_waited_for_until_its_lock_file_is_gone(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As its file is all that is seen of a job on a machine that is gone, deleting it takes the lock away."""
    with started(tmp_path, HOLDER, how, str(tmp_path / "a"), str(tmp_path / "b")) as process:
        assert line_of(process) == "held\n"
        pauses = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 12:
                (tmp_path / ".b.lock").unlink()

        monkeypatch.setattr(locks.time, "sleep", sleep)
        with caplog.at_level(logging.INFO), held(tmp_path / "b"):
            assert f"process {os.getpid()}" in (tmp_path / ".b.lock").read_text()
        assert len(pauses) == 12
        assert pauses[-1] == 5
        assert len(caplog.messages) == 1
        assert f"process {process.pid}" in caplog.text
        assert process.poll() is None
        assert (tmp_path / ".a.lock").exists()


def test_four_processes_count_together(tmp_path: Path) -> None:
    """Takes and releases that meet: the file of a lock is removed while others open it."""
    (tmp_path / "number").write_text("0")
    with contextlib.ExitStack() as stack:
        counters = [
            stack.enter_context(started(tmp_path, COUNTER, str(tmp_path / "number"))) for _ in range(4)
        ]
        assert [counter.wait() for counter in counters] == [0] * 4, [c.communicate() for c in counters]
    assert (tmp_path / "number").read_text() == "800"
    assert not (tmp_path / ".number.lock").exists()


def test_a_process_may_take_its_own_lock_again(tmp_path: Path) -> None:
    path, lock = tmp_path / "new/x", tmp_path / "new/.x.lock"
    with held(path):
        with held(tmp_path / "new/../new/x"):
            assert lock.exists()
        assert lock.exists()
        with pytest.raises(BlockingIOError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not lock.exists()


def test_a_folder_that_was_removed_or_remade_meanwhile_is_no_harm(tmp_path: Path) -> None:
    with held(tmp_path / "new/x"):
        (tmp_path / "new/.x.lock").unlink()
        (tmp_path / "new").rmdir()
    with held(tmp_path / "new/x"):
        (tmp_path / "new/.x.lock").unlink()
        (tmp_path / "new/.x.lock").write_text("somebody else's")
    assert (tmp_path / "new/.x.lock").read_text() == "somebody else's"


def test_a_link_in_place_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("precious")
    (tmp_path / ".x.lock").symlink_to(tmp_path / "thesis")
    with pytest.raises(OSError, match=".x.lock") as caught, held(tmp_path / "x"):
        pass
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "thesis").read_text() == "precious"


def test_a_lock_file_with_other_things_in_it_is_shown_in_one_plain_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks.time, "sleep", lambda _: (tmp_path / ".x.lock").unlink())
    for content, shown in ((b"\x1b[2J\xff" + b"x" * 9999, "[2J"), (b"", "a process that is just starting")):
        caplog.clear()
        with (tmp_path / ".x.lock").open("wb") as file:
            file.write(content)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            with caplog.at_level(logging.INFO), held(tmp_path / "x"):
                pass
        assert f"that writes it: {shown}" in caplog.text
        assert caplog.messages[0].isprintable()
        assert len(caplog.messages[0]) < 700


def test_a_file_system_without_locks_is_named_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    with held(tmp_path / "x"):
        assert list(tmp_path.iterdir()) == []
    assert f"{tmp_path / 'x'}: its file system has no locks (No locks available)" in caplog.text


def test_what_made_it_is_named_with_its_slurm_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with held(tmp_path / "x"):
        said = (tmp_path / ".x.lock").read_text()
    assert f"process {os.getpid()}, SLURM job 17, since " in said
    assert json.dumps(said).count("\\n") == 1
