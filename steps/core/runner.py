"""What every step shares: command line, log, progress, threads, whole outputs, clear errors.

A step is a module with a typed ``main``; its parameters become the command line::

    def main(a: Path, b: list[Path], rows: str, settings: Settings, out: Output) -> None: ...

    if __name__ == "__main__":
        run(main)

========================  ======================================================================
parameter type            on the command line
========================  ======================================================================
``Path``                  an input file or folder, which must exist
``list[Path]``            one or more inputs, or none
``Output``                a file to make: ``main`` gets a path beside it, renamed when whole
``dict[str, Output]``     one or more files to make, by their names without folder and suffix
``Settings`` subclass     JSON, validated; several objects are put together
``str int float bool``    themselves (``bool`` is a flag)
========================  ======================================================================

``--log FILE`` copies what goes to standard error into a file, after a first line that says what was
started where, and keeps beside it what the job took (``steps.core.records``). ``--debug`` shows the
traceback behind a user's mistake. Exit codes: 0 done, 1 our own bug (with a traceback), 2 the user's
mistake, 130 interrupted, 143 terminated. ``--help`` lists the settings of the step.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import inspect
import itertools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from steps.core import records
from steps.core.errors import UserError, disk_is_full
from steps.core.locks import held
from steps.core.settings import Settings, validate

logger = logging.getLogger("reprise")

_OF_PATHS = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR),
    *(errno.EPERM, errno.EROFS),
}
"""Errors of the place that the user named, not of ours."""

Output = typing.NewType("Output", Path)
"""A file that the step makes: written beside its final name, renamed when ``main`` returns."""

_PATHS = (Path, list[Path], Output, dict[str, Output])
"""Types of parameters that name files."""


def run(main: Callable[..., None]) -> typing.NoReturn:
    """Run a step's ``main`` from the command line and exit; see the module's docstring."""
    hints = typing.get_type_hints(main)
    parser = _parser(main, hints)
    arguments = vars(parser.parse_args())
    debug, log = arguments.pop("debug"), arguments.pop("log")
    outputs: list[tuple[Path, Path]] = []
    watch, outcome, code = None, "failed", 1
    try:
        _require_own_log(log, [arguments[name] for name, hint in hints.items() if hint in _PATHS])
        if _start_logging(log, step := parser.prog.removeprefix("python -m ")):
            watch = records.Watch(step.removeprefix("steps."))
        _heed_termination()
        values = {name: _value(name, hints[name], text, outputs) for name, text in arguments.items()}
        with held(*(final for _, final in outputs)), _gone_afterwards(outputs):
            _check_outputs(outputs, values)
            _set_threads(values)
            main(**values)
            for partial, final in outputs:
                if not partial.exists():
                    raise RuntimeError(f"{main.__module__}: made no {final}")
            for partial, final in outputs:
                os.replace(partial, final)
        outcome, code = "done", 0
    except UserError as error:
        code = 2
        logger.error("error: %s", error, exc_info=debug)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        raise
    except (Exception, KeyboardInterrupt) as error:
        if disk_is_full(error):
            code = 2
            where = getattr(error, "filename", None) or ", ".join(str(f) for _, f in outputs)
            logger.error(
                "error: %s: no space left on the disk; free some space and start again,"
                " finished parts are kept",
                where,
                exc_info=debug,
            )
        elif isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename:
            code = 2
            logger.error("error: %s", _place(error), exc_info=debug)
        elif isinstance(error, KeyboardInterrupt):
            outcome, code = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
            logger.error("%s; start again: finished parts are kept", outcome, exc_info=debug)
        else:
            raise
    finally:
        if watch is not None:
            records.write(records.path_of(Path(log)), watch.end(outcome, code))
    if main.__module__ == "__main__":
        _end_at_once(code)
    sys.exit(code)


def _end_at_once(code: int) -> typing.NoReturn:
    """End the process as ``sys.exit`` does, but leave its memory to the system.

    Python takes apart every module before it ends: most of a second, where torch and pandas are loaded.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def _gone_afterwards(outputs: list[tuple[Path, Path]]) -> Iterator[None]:
    """Remove what is half written when the body ends, while the lock is ours and nobody else writes there."""
    try:
        yield
    finally:
        for partial, _ in outputs:
            with contextlib.suppress(OSError):  # another error tells more
                partial.unlink(missing_ok=True)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), as SLURM does at a job's time limit."""


def _heed_termination() -> None:
    """Let SIGTERM end the step as Ctrl-C does: nothing half written, and a record of what it took."""
    ours = os.getpid()

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        if os.getpid() != ours:  # a worker that was forked from us
            os.kill(os.getpid(), signal.SIGTERM)
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _place(error: OSError) -> str:
    path = os.fsdecode(error.filename)
    shown = path if len(path) <= 200 else f"{path[:197]}..."
    return f"{shown}: cannot be read or written ({error.strerror}); choose another place or fix it"


def _check_outputs(outputs: list[tuple[Path, Path]], values: dict[str, Any]) -> None:
    """Refuse, before the work, outputs that could not take their place after it."""
    inputs = {path.resolve() for value in values.values() for path in _inputs(value)}
    inputs -= {partial.resolve() for partial, _ in outputs}
    seen = set()
    for partial, final in outputs:
        place = final.resolve()
        if place in seen:
            raise UserError(f"{final}: is to be made twice; name another file for one of the outputs")
        if place in inputs:
            raise UserError(f"{final}: is an input, too; name another file for the output")
        seen.add(place)
        partial.touch()  # a folder that takes no files, a name that is too long
        partial.unlink()


def _inputs(value: Any) -> list[Path]:
    return [value] if isinstance(value, Path) else value if isinstance(value, list) else []


def progress(work: Iterable[Any], total: int, label: str, every: float = 5.0) -> Iterator[Any]:
    """Pass ``work`` on and log a line with share done and time left every few seconds.

    Args:
        work: what to go through; may begin in the middle of ``total`` after a resume.
        total: how many items there are in all that remain.
        label: what is being done, with its unit (``blocks of seed-1``).
        every: seconds between lines.
    """
    start = last = time.monotonic()
    for done, item in enumerate(work, 1):
        yield item
        now = time.monotonic()
        if now - last >= every and done < total:
            last = now
            left = (now - start) / done * (total - done)
            logger.info("%s: %d of %d (%.0f %%), %.0f s left", label, done, total, 100 * done / total, left)


def _parser(main: Callable[..., None], hints: dict[str, Any]) -> argparse.ArgumentParser:
    module = sys.modules[main.__module__]
    spec = getattr(module, "__spec__", None)
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name if spec else main.__module__}",
        description=module.__doc__,
        epilog=_described(hints),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, parameter in inspect.signature(main).parameters.items():
        hint = hints[name]
        needed = parameter.default is inspect.Parameter.empty
        flag = "--" + name.replace("_", "-")
        default = None if needed else parameter.default
        if hint is bool:
            parser.add_argument(flag, dest=name, action="store_true")
        elif hint == list[Path]:
            parser.add_argument(
                flag, dest=name, nargs="*", required=needed, default=default, metavar="PATH", help=_INPUTS
            )
        elif hint == dict[str, Output]:
            parser.add_argument(
                flag, dest=name, nargs="+", required=needed, default=default, metavar="FILE", help=_OUTPUTS
            )
        elif _is_settings(hint):
            parser.add_argument(
                flag, dest=name, nargs="+", required=needed, default=default, metavar="JSON", help=_JSON
            )
        else:
            shown = getattr(hint, "__name__", "TEXT").upper()
            told = {Path: _INPUT, Output: _OUTPUT}.get(hint)
            parser.add_argument(flag, dest=name, required=needed, default=default, metavar=shown, help=told)
    parser.add_argument("--log", metavar="FILE", help="also write messages to this file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of user errors")
    return parser


_INPUT = "an input file; of a folder that a step made, its ledger.json"
_INPUTS = "input files, or none; of folders that a step made, their ledger.json"
_OUTPUT = "a file to make"
_OUTPUTS = "files to make, known by their names without folder and suffix"
_JSON = "the settings below as an object, those that differ; of several objects the later count"
"""What ``--help`` says of parameters by their type."""


def _described(hints: dict[str, Any]) -> str | None:
    """The settings of a step, a line each, for the end of ``--help``."""
    lines = [line for hint in hints.values() if _is_settings(hint) for line in _fields(hint)]
    return "\n  ".join(["settings:", *lines]) if lines else None


def _fields(model: type[Settings], above: str = "", inside: Any = None) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True) if inside is None else getattr(inside, name)
        below = [
            part for part in (field.annotation, *typing.get_args(field.annotation)) if _is_settings(part)
        ]
        if below:
            nested = default if isinstance(default, Settings) else None
            lines += _fields(below[0], f"{above}{name}.", nested)
            continue
        needed = field.is_required() and inside is None
        shown = "needed" if needed else json.dumps(default, ensure_ascii=False, default=str)
        told = f": {field.description}" if field.description else ""
        lines.append(f"{above}{name} ({shown}){told}")
    return lines


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _value(name: str, hint: Any, text: Any, outputs: list[tuple[Path, Path]]) -> Any:
    flag = "--" + name.replace("_", "-")
    if hint is Output and text is not None:
        return _partial(flag, text, outputs)
    if hint == dict[str, Output]:
        named: dict[str, Path] = {}
        for item in text:
            name = Path(item).stem
            if name in named:
                raise UserError(f"{flag}: two files are called {name}; name them differently")
            named[name] = _partial(flag, item, outputs)
        return named
    if hint is Path and text is not None:
        return _existing(flag, Path(text))
    if hint == list[Path]:
        return [_existing(flag, Path(item)) for item in text or []]
    if _is_settings(hint) and isinstance(text, list):
        parts = [_json(flag, part) for part in text]
        whole = dict(itertools.chain(*map(dict.items, parts))) if all(map(_is_object, parts)) else parts[0]
        return validate(hint, whole, flag)
    if hint in (int, float) and isinstance(text, str):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{flag}: found {text!r}, expected a number ({hint.__name__})") from None
    return text


def _partial(flag: str, text: str, outputs: list[tuple[Path, Path]]) -> Path:
    final = Path(text)
    if not text or not final.name or final.is_dir():
        raise UserError(f"{flag}: found {text!r}, expected the name of a file to make")
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.part")
    outputs.append((partial, final))
    return partial


def final_name(out: Path) -> str:
    """The name that an output will have; ``main`` is given the one beside it."""
    hidden = out.name.startswith(".") and out.name.endswith(".part")
    return out.name[1 : -len(".part")] if hidden else out.name


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _json(flag: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag}: found {text[:80]!r}, expected JSON ({error})") from None


def _existing(flag: str, path: Path) -> Path:
    try:
        there = path.exists()
    except ValueError as error:  # a NUL in it
        raise UserError(f"{flag}: found {str(path)!r}, expected a path ({error})") from None
    if not there:
        raise UserError(f"{flag}: {path} does not exist; check the path or build it with snakemake")
    return path


def _set_threads(values: dict[str, Any]) -> None:
    """Take the number of arithmetic threads from the settings alone (one where they name none).

    Snakemake exports OMP_NUM_THREADS from ``--cores``; sums would then depend on the machine's
    load. Libraries that are not loaded yet read these variables, numpy's BLAS is told directly.
    """
    threads = max((getattr(value, "threads", 1) for value in values.values()), default=1)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "numpy" in sys.modules:
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)


def _require_own_log(log: str | None, named: list[str | list[str] | None]) -> None:
    """Refuse a log that would take the place of an input or output, or whose record would."""
    files = {
        os.path.abspath(text)
        for texts in named
        for text in ([texts] if isinstance(texts, str) else texts or [])
    }
    for path in (Path(log), records.path_of(Path(log))) if log else ():
        if os.path.abspath(path) in files:
            raise UserError(
                f"--log: {path} is an input or output and would be overwritten; name another file for the log"
            )


def _start_logging(name: str | None, step: str) -> bool:
    """Log to standard error, and into the file ``name``; returns whether a record can lie beside it.

    The file begins with a line that says what started: Snakemake, which shows the logs of a job that failed,
    shows none where one is empty, and a job that is killed at once would leave it so.
    """
    logging.raiseExceptions = False  # a full disk must not turn a log line into a traceback
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)
    if name is None:
        return False
    if not name or Path(name).is_dir():
        raise UserError(f"--log: found {name!r}, expected the name of a file to write")
    log = Path(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(log, mode="w", encoding="utf-8", errors="backslashreplace")
    started = f"{step} started on {socket.gethostname()}, process {os.getpid()}"
    file.emit(logging.makeLogRecord({"msg": started}))
    handlers.append(file)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        logger.error("unexpected error", exc_info=(kind, error, trace))

    sys.excepthook = hook
    if not log.is_file():  # a device
        return False
    with contextlib.suppress(OSError):
        records.path_of(log).unlink(missing_ok=True)  # a job that is killed must not leave that of another
    return True
