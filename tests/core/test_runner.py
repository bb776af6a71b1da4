"""The command line of every step: exit codes, one-line errors, whole outputs, threads, logs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "zarr", "pandas", "pyarrow", "matplotlib", "tokenizers")

STEP = '''"""A small step."""

import errno
import json
import logging
import os
from pathlib import Path

import numpy  # before the runner sets the threads
import pydantic

from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import Settings


class Place(Settings):
    names: list[str] = pydantic.Field(["å"], description="what it is called")
    depth: int | None = pydantic.Field(None, description="how deep; null: no limit")


class Settings(Settings):
    threads: int = 1
    rate: float = pydantic.Field(0.1, gt=0, description="how fast")
    place: Place = pydantic.Field(Place(), description="where")


def main(
    source: Path,
    out: Output,
    more: list[Path] = (),
    second: Output = None,
    what: str = "",
    times: int = 1,
    loud: bool = False,
    settings: Settings = Settings(),
    parts: dict[str, Output] = {},
) -> None:
    out.write_text(source.read_text() * times + "".join(path.name for path in more) + "!" * loud)
    logging.getLogger("reprise").info("wrote %s", out.name)
    if what == "bug":
        raise RuntimeError("our own")
    if what == "user":
        raise UserError("new\\nline  two\\x1b[2J: found a, expected b; do c")
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    if what == "full, told by a library":
        try:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        except OSError as error:
            raise ValueError("could not write") from error
    if what == "waits":
        import signal

        out.with_name("finished.txt").write_text("a part")
        os.kill(os.getpid(), signal.SIGINT)
    if what == "is ended":
        import signal
        import time

        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if what == "is killed":
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    if what == "removes":
        out.unlink()
    if what == "exits":
        raise SystemExit(7)
    if what == "threads":
        import threadpoolctl

        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        out.write_text(json.dumps({"named": [os.environ[name] for name in names], "pools": pools}))
    for name, part in parts.items():
        part.write_text(name)
    if second is not None and what != "forgets":
        second.write_text(f"{settings.rate}")


if __name__ == "__main__":
    run(main)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "source.txt").write_text("planted ")
    return tmp_path


def start(
    folder: Path, *arguments: str | bytes, module: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(["-m", "step"] if module else ["step.py"]), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def usual(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return start(folder, "--source", "source.txt", "--out", "made/out.txt", *arguments, **environment)


def made(folder: Path) -> list[str]:
    """All files but the step and its source, hidden ones too."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(name for name in found - {"step.py", "source.txt"} if "__pycache__" not in name)


def logged(folder: Path, name: str = "step.log") -> str:
    """What a log holds after the line that says what was started, which it begins with."""
    first, _, rest = (folder / name).read_text().partition("\n")
    assert re.fullmatch(rf"(__main__|step) started on {re.escape(socket.gethostname())}, process \d+", first)
    return rest


def is_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> bool:
    """Exit code 2; after what the step itself logs comes one line, which names the parts."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("wrote ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return all(part in lines[0] for part in parts)


def test_a_step_takes_every_kind_of_argument_and_writes_whole_outputs(folder: Path) -> None:
    done = start(
        folder,
        *("--source", "source.txt", "--more", "source.txt", "step.py", "--times", "2", "--loud"),
        *("--settings", '{"rate": 3}', '{"rate": "1e-4"}', "--out", "deep/er/a.txt", "--second", "b.txt"),
        *("--parts", "parts/one.svg", "parts/two.svg"),
        module=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert made(folder) == ["b.txt", "deep/er/a.txt", "parts/one.svg", "parts/two.svg"]
    assert (folder / "parts/two.svg").read_text() == "two"
    assert (folder / "deep/er/a.txt").read_text() == "planted planted source.txtstep.py!"
    assert (folder / "b.txt").read_text() == "0.0001"


@pytest.mark.parametrize(
    ("what", "code"),
    [("bug", 1), ("forgets", 1), ("removes", 1), ("user", 2), ("full", 2), ("exits", 7)],
)
def test_a_failure_leaves_nothing_and_keeps_what_was_there(folder: Path, what: str, code: int) -> None:
    (folder / "earlier.txt").write_text("earlier")
    done = usual(folder, "--second", "earlier.txt", "--what", what)
    assert done.returncode == code, done.stderr
    assert made(folder) == ["earlier.txt"]
    assert (folder / "earlier.txt").read_text() == "earlier"


def test_an_interrupted_step_says_so_in_one_line_and_keeps_finished_parts(folder: Path) -> None:
    done = usual(folder, "--what", "waits", "--log", "step.log")
    said = "wrote .out.txt.part\ninterrupted; start again: finished parts are kept\n"
    assert (done.returncode, done.stderr) == (130, said)
    assert logged(folder) == said
    assert made(folder) == ["made/finished.txt", "step.json", "step.log"]
    assert "KeyboardInterrupt" in usual(folder, "--what", "waits", "--debug").stderr


def test_help_says_what_every_kind_of_argument_and_setting_is(folder: Path) -> None:
    done = start(folder, "--help", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    before, _, settings = done.stdout.partition("\nsettings:\n")
    assert settings.splitlines() == [
        "  threads (1)",
        "  rate (0.1): how fast",
        '  place.names (["å"]): what it is called',
        "  place.depth (null): how deep; null: no limit",
    ]
    lines = [" ".join(line.split()) for line in before.splitlines()]
    assert "--source PATH an input file; of a folder that a step made, its ledger.json" in lines
    assert "--more [PATH ...] input files, or none; of folders that a step made, their ledger.json" in lines
    assert "--out OUTPUT a file to make" in lines
    assert any("the settings below" in line for line in lines)


def test_our_own_bug_shows_its_traceback_on_screen_and_in_the_log(folder: Path) -> None:
    done = usual(folder, "--what", "bug", "--log", "logs/deep/step.log")
    assert done.returncode == 1
    for text in (done.stderr, (folder / "logs/deep/step.log").read_text()):
        assert "Traceback" in text
        assert "RuntimeError: our own" in text


def test_an_output_that_was_not_made_is_named(folder: Path) -> None:
    done = usual(folder, "--second", "made/second.txt", "--what", "forgets")
    assert "made no made/second.txt" in done.stderr


def test_a_users_mistake_is_one_line_and_a_traceback_on_demand(folder: Path) -> None:
    done = usual(folder, "--what", "user", "--log", "step.log")
    assert is_one_line(done, "error: new\\nline  two\\x1b[2J: found a, expected b; do c")
    assert logged(folder) == done.stderr
    done = usual(folder, "--what", "user", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "UserError" in done.stderr


@pytest.mark.parametrize("what", ["full", "full, told by a library"])
def test_a_full_disk_is_one_line(folder: Path, what: str) -> None:
    done = usual(folder, "--what", what)
    assert is_one_line(done, "out.txt", ": no space left on the disk; free some space and start again")
    assert made(folder) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--more", "step.py", "absent.txt"], ["--more: absent.txt does not exist"]),
        (["--settings", "{"], ["--settings: found '{', expected JSON"]),
        (["--settings", "{}", "{"], ["--settings: found '{', expected JSON"]),
        (["--settings", "[1]"], ["--settings: the configuration: found [1]"]),
        (["--settings", '{"raet": 1}'], ["--settings: raet: unknown key (found 1), did you mean 'rate'?"]),
        (["--settings", '{"rate": NaN}'], ["--settings: rate: found nan"]),
        (["--settings", "[" * 100_000], ["--settings: ", "expected JSON"]),
        (["--times", "two"], ["--times: found 'two', expected a number (int)"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    folder: Path, arguments: list[str], parts: list[str]
) -> None:
    assert is_one_line(usual(folder, *arguments), *parts)
    assert made(folder) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--out", "source.txt/x"], ["source.txt", "cannot be read or written (", "; choose another"]),
        (["--out", ""], ["--out: found '', expected the name of a file to make"]),
        (["--out", "folder"], ["--out: found 'folder', expected the name of a file to make"]),
        (["--out", "."], ["--out: found '.', expected the name of a file to make"]),
        (["--out", "a.txt", "--second", "./a.txt"], ["a.txt: is to be made twice; name another"]),
        (["--out", "a.txt", "--parts", "b.txt", "c/b.svg"], ["--parts: two files are called b; name"]),
        (["--out", "b.txt", "--parts", "c.txt", "b.txt"], ["b.txt: is to be made twice; name another"]),
        (["--out", "source.txt"], ["source.txt: is an input, too; name another"]),
        (["--out", "x" * 255], ["xxx", "cannot be read or written (File name too long)"]),
        (["--out", "a.txt", "--log", "folder"], ["--log: found 'folder', expected the name of a file"]),
        (["--out", "a.txt", "--log", ""], ["--log: found '', expected the name of a file"]),
        (["--out", "a.txt", "--log", "source.txt/x"], ["source.txt", "cannot be read or written ("]),
        (["--out", "a.txt", "--more", "x" * 300], ["xxx", "cannot be read or written (File name too long)"]),
        (["--out", "source.txt", "--log", "source.txt"], ["--log: source.txt is an input or output and"]),
        (["--out", "a.json", "--log", "./a.log"], ["--log: a.json is an input or output and would be"]),
        (["--out", "/proc/version/x"], ["/proc/version", "cannot be read or written ("]),
    ],
)
def test_a_place_that_cannot_be_is_one_line_before_the_work(
    folder: Path, arguments: list[str], parts: list[str]
) -> None:
    (folder / "folder").mkdir()
    (folder / "folder/kept.txt").write_text("kept")
    done = start(folder, "--source", "source.txt", *arguments)
    assert is_one_line(done, *parts), done.stderr
    assert "wrote" not in done.stderr
    assert made(folder) == ["folder/kept.txt"]
    assert (folder / "source.txt").read_text() == "planted "


def test_a_missing_input_with_a_hostile_name_is_one_line_on_screen_and_in_the_log(folder: Path) -> None:
    name = b"--source=line\nbreak\xff\xe2\x80\xa8"
    done = start(folder, name, "--out", "out.txt", "--log", "step.log")
    assert is_one_line(done, "--source: line\\nbreak\\udcff\\u2028 does not exist")
    assert "does not exist" in (folder / "step.log").read_text()


def test_unknown_and_shortened_flags_are_refused(folder: Path) -> None:
    for flag in ("--nonsense", "--setting"):
        done = usual(folder, flag, "{}")
        assert done.returncode == 2
        assert "unrecognized arguments" in done.stderr
    assert made(folder) == []


def test_the_log_holds_what_the_screen_shows_and_is_overwritten(folder: Path) -> None:
    (folder / "step.log").write_text("an earlier run\n")
    done = usual(folder, "--log", "step.log")
    assert done.stderr == "wrote .out.txt.part\n"
    assert logged(folder) == done.stderr


def test_a_step_that_is_asked_to_end_leaves_nothing_half_written(folder: Path) -> None:
    done = usual(folder, "--what", "is ended", "--log", "step.log")
    assert done.returncode == 143
    assert logged(folder) == "wrote .out.txt.part\nterminated; start again: finished parts are kept\n"
    assert made(folder) == ["step.json", "step.log"]


def test_a_step_that_is_killed_leaves_a_log_with_a_line_and_no_record(folder: Path) -> None:
    assert usual(folder, "--log", "step.log").returncode == 0
    assert (folder / "step.json").exists()
    done = usual(folder, "--what", "is killed", "--log", "step.log")
    assert done.returncode == -signal.SIGKILL
    assert logged(folder) == "wrote .out.txt.part\n"
    assert not (folder / "step.json").exists()


@pytest.mark.parametrize(
    ("what", "outcome", "code"),
    [
        ("", "done", 0),
        ("bug", "failed", 1),
        ("user", "failed", 2),
        ("full", "failed", 2),
        ("exits", "failed", 7),
        ("waits", "interrupted", 130),
        ("is ended", "terminated", 143),
    ],
)
def test_however_a_job_ends_it_leaves_a_record(folder: Path, what: str, outcome: str, code: int) -> None:
    (folder / "logs").mkdir()
    (folder / "logs/step.json").write_text("an earlier one")
    usual(folder, "--what", what, "--log", "logs/step.log")
    record = json.loads((folder / "logs/step.json").read_text())
    assert (record["outcome"], record["exit_code"]) == (outcome, code)
    assert (record["step"], record["host"]) == ("__main__", socket.gethostname())
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["step.json", "step.log"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_log_on_a_full_disk_stops_nothing(folder: Path) -> None:
    done = usual(folder, "--log", "/dev/full")
    assert (done.returncode, done.stderr) == (0, "wrote .out.txt.part\n")
    assert made(folder) == ["made/out.txt"]


@pytest.mark.parametrize(("settings", "threads"), [("{}", 1), ('{"threads": 2}', 2)])
def test_threads_come_from_the_settings_alone(folder: Path, settings: str, threads: int) -> None:
    done = usual(
        folder, "--what", "threads", "--settings", settings, OMP_NUM_THREADS="5", MKL_NUM_THREADS="6"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "made/out.txt").read_text())
    assert found["named"] == [str(threads)] * 4
    assert found["pools"]
    # OpenBLAS never takes more threads than there are processors.
    assert set(found["pools"]) <= {threads, min(threads, os.cpu_count() or 1)}


ASK_ALL = """
import contextlib, io, json, runpy, sys

heavy, steps = json.loads(sys.argv[1])
for step in steps:
    sys.argv = [step, "--help"]
    said = io.StringIO()
    code = None
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(step, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    loaded = [name for name in heavy if name in sys.modules]
    print(json.dumps({"step": step, "code": code, "help": said.getvalue(), "loaded": loaded}))
"""


def test_help_of_every_step_is_light_and_says_what_it_does() -> None:
    steps = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted(ROOT.glob("steps/**/*.py"))
        if re.search(r"^    run\(main\)$", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert "steps.neurons.correlate" in steps
    done = subprocess.run(
        [sys.executable, "-c", ASK_ALL, json.dumps([HEAVY, steps])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["step"] for answer in answers] == steps
    for answer in answers:
        assert (answer["step"], answer["code"], answer["loaded"]) == (answer["step"], 0, [])
        assert answer["help"].startswith(f"usage: python -m {answer['step']} ")
        assert "--log FILE" in answer["help"]
        assert ("\nsettings:\n  " in answer["help"]) == ("JSON" in answer["help"].split("\n\n")[0])
