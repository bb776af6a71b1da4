"""Children end with their parent, inherit nothing, and say why they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.audit.gateway.process import private_folder, started_gateway
from steps.audit.gateway.server import Config
from steps.core.errors import UserError
from steps.core.stores import Folder
from tests.audit.conftest import KEY, START_SECONDS

CHILD = "import sys, time; print('there', flush=True); time.sleep(60)"


def config(package: Folder, folder: Path, private: Path) -> Config:
    return Config(
        package=str(package.path.resolve()),
        folder=str(folder),
        address=str(private / "s"),
        key=KEY.private_bytes_raw().hex(),
        genesis={},
        serve_model=False,
    )


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(process: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(process)


def test_a_plain_child_outlives_its_killed_parent_and_a_gateway_does_not(
    tmp_path: Path, documents: Folder
) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"plain = subprocess.Popen([sys.executable, '-c', {CHILD!r}], stdout=subprocess.DEVNULL)\n"
        "from pathlib import Path\n"
        "from steps.audit.gateway.process import started_gateway\n"
        "from steps.audit.gateway.server import Config\n"
        "config = Config.model_validate_json(sys.argv[1])\n"
        "child = started_gateway(config, Path(sys.argv[2]), 120)\n"
        "print(plain.pid, child.process, flush=True)\n"
        "time.sleep(60)\n"
    )
    with private_folder() as private:
        text = config(documents, tmp_path, private).model_dump_json()
        command = [sys.executable, "-c", code, text, str(private / "log")]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        plain, gateway = map(int, parent.stdout.readline().split())
        assert alive(gateway)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert gone(gateway, 5)
        assert alive(plain)
        os.kill(plain, signal.SIGKILL)


def test_a_child_inherits_no_open_file(tmp_path: Path, documents: Folder) -> None:
    """An open descriptor reads a file that no path leads to; a plain child inherits what may be inherited."""
    secret = tmp_path / "secret"
    secret.write_text("weights")
    with secret.open() as file, private_folder() as private:
        os.set_inheritable(file.fileno(), True)
        secret.unlink()
        read = f"import os; print(os.pread({file.fileno()}, 9, 0).decode())"
        plain = subprocess.run(
            [sys.executable, "-c", read], close_fds=False, capture_output=True, text=True, check=True
        )
        assert plain.stdout == "weights\n"
        child = started_gateway(config(documents, tmp_path, private), private / "log", START_SECONDS)
        names = [os.readlink(entry) for entry in Path(f"/proc/{child.process}/fd").iterdir()]
        child.kill()
        assert names
        assert not [name for name in names if "secret" in name]


def test_sigterm_closes_the_chain(tmp_path: Path, documents: Folder) -> None:
    with private_folder() as private:
        child = started_gateway(config(documents, tmp_path, private), private / "log", START_SECONDS)
        os.kill(child.process, signal.SIGTERM)
        while child.exit_code() is None:
            time.sleep(0.05)
        assert child.exit_code() == 0
        child.kill()
    assert (tmp_path / "chain.jsonl").read_text().splitlines()[-1].count('"op":"close"') == 1
    assert (tmp_path / "closing.json").exists()


def test_a_gateway_that_cannot_start_says_why_in_one_line(tmp_path: Path, documents: Folder) -> None:
    with private_folder() as private:
        wrong = config(documents, tmp_path, private).model_copy(update={"package": str(tmp_path / "none")})
        with pytest.raises(UserError, match=r"the gateway ended at once \(error: .*none: missing"):
            started_gateway(wrong, private / "log", START_SECONDS)
        good = config(documents, tmp_path, private)
        with pytest.raises(UserError, match=r"was not ready in 0 s; raise audit.run.start_seconds"):
            started_gateway(good, private / "log", 0.01)
        damaged = tmp_path / "chain.jsonl"
        damaged.write_text("{}\n")
        with pytest.raises(UserError, match="a chain that is altered"):
            started_gateway(good, private / "log", START_SECONDS)
