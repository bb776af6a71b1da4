"""A Python with torch and its like loaded, of which every job of a test is a copy made in no time.

Loading them takes seconds, and the workflow at the scale of tests is dozens of jobs that work for a fraction
of a second. The steps themselves are loaded again for every job. ``python server.py ADDRESS`` ends with its
parent. Where ``REPRISE_CALLS`` names a folder, every job writes there which functions of ``steps`` it called.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType

PR_SET_PDEATHSIG = 1


LIBRARIES = (
    *("dvc.repo", "matplotlib.backends.backend_svg", "matplotlib.figure", "pandas", "pyarrow.parquet"),
    *("PIL.Image", "safetensors.torch", "scipy.stats", "sklearn.datasets", "sklearn.svm", "snakemake.cli"),
    *("torch", "transformers.activations", "zarr"),
    *("transformers.models.gpt2.modeling_gpt2", "transformers.models.auto.tokenization_auto"),
)


def serve(address: str) -> None:
    """Start what is asked for at ``address``, each job in a process of its own."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            try:
                attend(connection)
            finally:
                os._exit(0)
        connection.close()


def attend(connection: socket.socket) -> None:
    """Run the job that the connection asks for and say how it ended; kill it if nobody listens any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    text = connection.makefile("rb").read(int.from_bytes(size, "big"))
    job = json.loads(text.decode("utf-8", "surrogateescape"))
    child = os.fork()
    if not child:
        os.setpgid(0, 0)  # with all that it starts
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        code = 1
        try:
            code = run(job)
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # whichever comes first
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))


def run(job: dict[str, object]) -> int:
    """Run the job as ``python -m`` does, and give its exit code."""
    module, *_ = job["argv"]
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    if module.startswith("steps."):
        os.environ.setdefault("REPRISE_STEP", module)  # what it starts belongs to it
    sys.argv = list(job["argv"])
    sys.path[:0] = [job["folder"], *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    try:
        with noted_calls(os.environ.get("REPRISE_CALLS"), module):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@contextlib.contextmanager
def noted_calls(folder: str | None, module: str) -> Iterator[None]:
    """Write the functions of ``steps`` that are called to a file in ``folder``, if there is one.

    The file is named for the step to which the process belongs, be it the job or one that a job started.
    Each is a list: who called it in the end (``import``: a module that was being imported; ``run``: the
    runner; ``main``), its file, its qualified name and first line. What the code digest calls, which is most
    of all calls and decides no result, is not looked at.
    """
    if not folder or not module.startswith("steps."):
        yield
        return
    places = [os.path.join(place, "steps", "") for place in os.environ["PYTHONPATH"].split(os.pathsep)]
    steps = next(place for place in places if os.path.isdir(place))
    noted: set[tuple[str, str, str, int]] = set()
    finished: dict[int, CodeType] = {}  # by id: nothing more is to be learned of it; kept, so that its id is
    marks: dict[int, tuple[CodeType, str]] = {}
    here = threading.local()

    def mark(code: CodeType) -> str | None:
        """What everything is called by that this code calls, if this code decides it."""
        if code.co_name == "<module>":
            return "import"
        is_one = code.co_name in ("main", "run") and code.co_name == code.co_qualname
        return code.co_name if is_one else None

    def notice(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "return" and id(code) in marks:
            here.callers.pop()
        if event != "call" or id(code) in finished:
            return
        if not code.co_filename.startswith(steps):
            finished[id(code)] = code
            return
        if not hasattr(here, "callers"):
            here.callers = ["main"]  # of another thread
        who = here.callers[-1]
        if name := mark(code):
            marks[id(code)] = code, name
            here.callers.append(name)
            who = "main" if name == "main" else who
        elif who == "main":
            finished[id(code)] = code
        if code.co_flags & inspect.CO_OPTIMIZED:  # not the body of a module or class
            noted.add((who, code.co_filename, code.co_qualname, code.co_firstlineno))

    def unwatched(digest: Callable[..., str], *arguments: object) -> str:
        code = inspect.unwrap(digest).__code__
        noted.add((here.callers[-1], code.co_filename, code.co_qualname, code.co_firstlineno))
        sys.setprofile(None)
        try:
            return digest(*arguments)
        finally:
            sys.setprofile(notice)

    def write() -> None:
        sys.setprofile(None)
        with open(os.path.join(folder, f"{os.environ['REPRISE_STEP']}-{os.getpid()}.json"), "w") as file:
            json.dump(sorted(noted), file)

    threading.setprofile(notice)
    sys.setprofile(notice)
    atexit.register(write)  # a step ends its process itself
    try:
        module_of_digest = importlib.import_module("steps.core.digest")
        module_of_digest.code_digest = functools.partial(unwatched, module_of_digest.code_digest)
        yield
    finally:
        atexit.unregister(write)
        write()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for library in LIBRARIES:
        importlib.import_module(library)
    serve(sys.argv[1])
