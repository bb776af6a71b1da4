"""Between Snakemake, which makes results, and DVC, which records them; docs/versions.md explains it.

``python -m steps.workflow.versions stage TARGET [FOLDER]``
    What a stage of ``dvc.yaml`` runs: ``snakemake $SNAKEMAKE_ARGS`` with the published settings for a
    target, or for that part of it which lies in FOLDER. A record that names settings and code beside
    results that others made would be false, and Snakemake alone does not prevent it: it believes files
    that it has no notes on, and misses that DVC exchanged some. So every result that exists must be one
    that Snakemake made or touched here, as its time tells, and afterwards nothing may be left to do.

``python -m steps.workflow.versions pull``
    Puts back the results of every stage whose settings and code are those of ``dvc.lock``, from DVC's
    cache or its remote, and lets Snakemake take them over: it has nothing left to do for them. Results
    of other settings or code are left alone, but for those that are missing. Every byte is verified.

Exit codes: 0 done, 1 not all that was wanted, 2 the user's mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from steps.core.errors import UserError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

CONFIGURATION = ("--configfile", "config/publish.yaml")
"""The settings that DVC records."""

_NOT_FOR_STAGES = ("--config", "--configfile", "--configfiles", "--touch")
"""What a stage decides itself; Snakemake takes shortened options, too."""
_SAME_TIME = 0.001  # seconds; Snakemake keeps times as floating-point numbers


def _decided_by_stage(argument: str) -> bool:
    if argument.startswith("--"):
        name = argument.partition("=")[0]
        return any(len(name) > 4 and option.startswith(name) for option in _NOT_FOR_STAGES)
    return argument.startswith("-C") or argument == "-t"


def stage(target: str, folder: str | None = None) -> int:
    """Make a Snakemake target for DVC to record.

    Args:
        target: a rule or file.
        folder: make only the files in this folder that the target needs.

    Returns:
        what Snakemake returned: 0 where everything is made.

    Raises:
        UserError: results of unknown origin, settings in ``SNAKEMAKE_ARGS``, frozen stages, or work that
            is left.
    """
    text = os.environ.get("SNAKEMAKE_ARGS", "")
    try:
        arguments = shlex.split(text)  # not every shell would split it
    except ValueError as error:
        raise UserError(f"SNAKEMAKE_ARGS: found {text!r} ({error}); close the quotation") from None
    if wrong := [argument for argument in arguments if _decided_by_stage(argument)]:
        raise UserError(
            f"SNAKEMAKE_ARGS: found {wrong[0]}, expected how to run (a profile, cores), not what;"
            f" published settings stand in config/default.yaml and {CONFIGURATION[1]}"
        )
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    _refuse_frozen(name for name, content in declared.items() if content.get("frozen"))
    targets = within(target, folder)
    rows = results(*targets)
    if strangers := not_made_here(rows):
        raise UserError(
            f"{_some(strangers)}: not made here with these settings and this"
            " code as far as Snakemake knows; put both back as dvc.lock has them and run `make pull`, or"
            f" rerun everything: snakemake {' '.join(CONFIGURATION)} --forceall -- {target}"
        )
    if not unfinished(rows):
        print(f"Nothing to be done for {target}")
        return 0
    done = subprocess.run(_snakemake(*arguments, *CONFIGURATION, "--", *targets), check=False)
    if done.returncode == 0 and (left := unfinished(results(*targets))):
        raise UserError(
            f"{_some(left)}: still to be made; remove from SNAKEMAKE_ARGS (or from the"
            " profile) whatever keeps Snakemake from running everything"
        )
    return done.returncode


def pull() -> int:
    """Put the published results back and let Snakemake know them.

    Returns:
        0 where nothing is left to do, 1 where something is missing or a stage differs from ``dvc.lock``.

    Raises:
        UserError: nothing was published, nobody has the results, a stage is frozen, or files of the user
            would be lost.
    """
    from dvc.logger import setup
    from dvc.repo import Repo

    if not Path("dvc.lock").exists():
        raise UserError("dvc.lock: missing, nothing was published here; make everything with snakemake")
    setup()
    with Repo() as repo:
        # DVC believes a remote unless it is told otherwise (of HDFS it cannot be told).
        urls = {name: str(remote.get("url")) for name, remote in repo.config["remote"].items()}
    verified = {name: {"verify": True} for name, url in urls.items() if not url.startswith("hdfs:")}
    with Repo(config={"remote": verified}) as repo:
        stages = {
            stage.name: stage
            for stage in repo.index.stages
            if getattr(stage, "name", None) and all(out.hash_info for out in stage.outs)
        }
        _refuse_frozen(name for name, stage in stages.items() if stage.frozen)
        ours = {name for name in stages if _is_as_recorded(repo, name)}
        lacking = _restore(repo, stages, ours)
        # With those it depends on: a result is no better than what it was made from.
        clean = [name for name in stages if not repo.status(targets=[name], with_deps=True)]
        # DVC believes what it once put there; its cache or the disk may have spoilt it.
        if spoilt := [path for name in clean for path in _spoilt(stages[name])]:
            print(f"{_some(spoilt)}: damaged, is fetched again", file=sys.stderr)
            lacking = _restore(repo, stages, ours)
            clean = [name for name in clean if name not in lacking]
            if spoilt := [path for name in clean for path in _spoilt(stages[name])]:
                raise UserError(
                    f"{_some(spoilt)}: damaged again once restored; check the store and this disk"
                )
        commands = {name: str(stage.cmd) for name, stage in stages.items()}
    targets = [file for name in clean for file in within(*shlex.split(commands[name])[4:])]
    rows = results(*targets) if targets else []
    if not_made_here(rows) or unfinished(rows):
        # In one call: a later one would make what an earlier one touched look outdated.
        touch = ("--touch", "--forceall", "--cores", "1", "--quiet", "all")
        subprocess.run(_snakemake(*touch, *CONFIGURATION, "--", *targets), check=True)
        rows = results(*targets)
    for name in commands:
        if name in lacking:
            print(f"{name}: {lacking[name]}", file=sys.stderr)
        elif name not in clean:
            print(f"{name}: settings, code or files differ from dvc.lock; left as it is", file=sys.stderr)
    if left := unfinished(rows):
        raise UserError(f"{_some(left)}: still to be made; run snakemake")
    print(f"Nothing to be done for: {', '.join(clean) or 'no stage'}")
    return int(len(clean) < len(commands))


def _is_as_recorded(repo: Repo, name: str) -> bool:
    """Whether the command, settings and code of a stage, and of all before it, are those of ``dvc.lock``.

    Its results may be others: what was made since with other settings is outdated now.
    """
    made = {out.fs_path: out for stage in repo.index.stages for out in stage.outs}
    for stage in repo.stage.collect(name, with_deps=True):
        if stage.changed_stage():
            return False
        for dependency in stage.deps:
            before = made.get(dependency.fs_path)
            if before.hash_info != dependency.hash_info if before else dependency.status():
                return False
    return True


def _restore(repo: Repo, stages: dict[str, PipelineStage], ours: set[str]) -> dict[str, str]:
    """Put the results of the stages ``ours`` in place, and of the others those that are missing.

    DVC itself removes a folder of which it lacks one file, so it is asked for whole ones only.

    Returns:
        for each stage of which something is missing: what, and what to do.

    Raises:
        UserError: nothing is there, or files of the user would be lost.
    """
    messages: dict[str, str] = {}
    missing = sorted(name for name, stage in stages.items() if _missing(stage))
    try:
        if missing:
            _require_remote(repo.config)
    except UserError as error:
        if len(missing) == len(stages):
            raise
        messages = dict.fromkeys(missing, str(error))
    for name in missing:
        try:
            if name not in messages:
                repo.fetch(targets=[name])
        except Exception as error:  # every kind of remote has its own; no stage keeps another back
            # Into a folder we look ourselves.
            if not Path(repo.cloud.get_remote_odb().path).is_dir():
                messages[name] = str(error)
    lacking = {name: left for name in missing if (left := _missing(stages[name]))}
    wanted = [
        name
        for name, stage in stages.items()
        if name not in lacking and (name in ours or not any(out.exists for out in stage.outs))
    ]
    if foreign := [path for name in wanted for out in stages[name].outs for path in _foreign(repo, out)]:
        raise UserError(
            f"{_some(foreign)}: not made by the workflow, and lost if the published results are put back;"
            " move it out of this folder"
        )
    if wanted:
        changes = repo.checkout(targets=wanted, force=True)
        for kind in ("added", "modified", "deleted"):
            for path in changes[kind]:
                print(f"{kind}: {path}")
    return {name: _lost(repo, paths, messages.get(name, "")) for name, paths in lacking.items()}


def _recorded(out: Output) -> dict[str, str] | None:
    """The MD5 of every file of a stage's output, by path; None where the cache lacks the list of them."""
    if not out.hash_info.isdir:
        return {str(out): str(out.hash_info.value)}
    if _md5(Path(out.cache.oid_to_path(out.hash_info.value))) + ".dir" != out.hash_info.value:
        return None
    return {str(Path(str(out), *key)): str(found.value) for key, _, found in out.get_obj()}


def _missing(stage: PipelineStage) -> dict[str, str]:
    """What the cache lacks of a stage's outputs: path and name of the object."""
    lacking = {}
    for out in stage.outs:
        files = _recorded(out)
        if files is None:
            lacking[str(out)] = str(out.hash_info.value)
            Path(out.cache.oid_to_path(out.hash_info.value)).unlink(missing_ok=True)  # it may be damaged
        for path, name in (files or {}).items():
            if not out.cache.exists(name):
                lacking[path] = name
    return lacking


def _lost(repo: Repo, lacking: dict[str, str], message: str) -> str:
    """Say what is missing and why."""
    files = _some(list(lacking))
    if message:
        return f"{files}: not in DVC's cache, and not fetched ({message})"
    store = repo.cloud.get_remote_odb()
    name = next(iter(lacking.values()))
    if store.exists(name):
        return (
            f"{files}: damaged or unreadable in the DVC remote; remove {store.oid_to_path(name)} there and"
            " ask someone who has an intact copy to run `dvc push` again, or rebuild it with snakemake"
        )
    return (
        f"{files}: missing in the DVC remote; ask someone who has it to run `dvc push`,"
        " or rebuild it with snakemake"
    )


def _spoilt(stage: PipelineStage) -> list[str]:
    """Files of a stage's outputs that hold other bytes than DVC thinks; removed, with what the cache has."""
    found = []
    for out in stage.outs:
        for path, name in (_recorded(out) or {}).items():
            if _md5(Path(path)) == name:
                continue
            found.append(path)
            Path(path).unlink(missing_ok=True)
            kept = Path(out.cache.oid_to_path(name))
            if _md5(kept) != name:
                kept.unlink(missing_ok=True)
    return found


def _md5(path: Path) -> str:
    """The digest by which DVC names a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return ""


def _foreign(repo: Repo, out: Output) -> list[str]:
    """Files in a stage's output that nobody recorded and no rule made.

    A rule made what Snakemake has notes on, and whatever lies in a folder with a ledger.
    """
    from snakemake.persistence.file import FilePersistence

    from steps.core.stores import LEDGER

    records, recorded = FilePersistence(nolock=True), _recorded(out) or {}
    top = Path(str(out))
    ledgers = {path.parent for path in (*top.rglob(LEDGER), *top.rglob(".finished.jsonl"))}
    present = [Path(path) for path in repo.dvcignore.find(repo.fs, str(top))] if top.is_dir() else []
    return [
        str(path)
        for path in sorted(present)
        if str(path) not in recorded
        and ledgers.isdisjoint(path.parents)
        and records._read_record(str(path)) is None
    ]


def _refuse_frozen(names: Iterable[str]) -> None:
    """DVC records a frozen stage with the settings of today, whatever made its results."""
    if name := next(iter(names), None):
        raise UserError(
            f"dvc.yaml: found `frozen` at stage {name!r}, whose record would name settings that did not make"
            " its results; remove the line"
        )


def within(target: str, folder: str | None = None) -> list[str]:
    """The target, or the files in the folder that it needs.

    Raises:
        UserError: it needs none there.
    """
    if folder is None:
        return [target]
    files = [row["output_file"] for row in results(target)]
    inside = [file for file in files if Path(folder) in Path(file).parents]
    if not inside:
        raise UserError(
            f"{folder}: {target} makes nothing in this folder; correct config/publish.yaml or dvc.yaml"
        )
    return inside


def not_made_here(rows: list[dict[str, str]]) -> list[str]:
    """Of these :func:`results` those that exist and that Snakemake did not make or touch as they are."""
    from snakemake.persistence.file import FilePersistence

    records = FilePersistence(nolock=True)
    present = [row["output_file"] for row in rows if Path(row["output_file"]).exists()]
    # Snakemake was killed before it knew whether these are whole, and makes them again.
    suspect = records._filter_incomplete_keys(present)
    strangers = []
    for path in present:
        record = records._read_record(path)
        made = record.endtime if record else None
        if path not in suspect and (made is None or abs(Path(path).stat().st_mtime - made) > _SAME_TIME):
            strangers.append(path)
    return strangers


def unfinished(rows: list[dict[str, str]]) -> list[str]:
    """Of these :func:`results` those that Snakemake would make."""
    return [row["output_file"] for row in rows if row["plan"] == "update pending"]


def results(*targets: str) -> list[dict[str, str]]:
    """Every file that rules make for the targets with the published settings.

    Without a profile, so that none can hide a reason to make something.

    Returns:
        Snakemake's summary; of its columns, this module uses ``output_file`` and ``plan``.

    Raises:
        UserError: Snakemake refuses the configuration, the rules or the targets.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import RuleException, WorkflowError
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )

    table = io.StringIO()
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        try:
            workflow = api.workflow(
                snakefile=Path("Snakefile"),
                config_settings=ConfigSettings(configfiles=[Path(CONFIGURATION[1])]),
                resource_settings=ResourceSettings(cores=1),
            )
            with contextlib.redirect_stdout(table):
                workflow.dag(DAGSettings(targets=set(targets))).summary()
        except (RuleException, WorkflowError) as error:
            raise UserError(str(error)) from None
    header, *rows = (line.split("\t") for line in table.getvalue().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def _some(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _snakemake(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments]


def _require_remote(config: dict[str, dict[str, dict[str, str]]]) -> None:
    """Say in one line what DVC says in several that mislead."""
    name = str(config["core"].get("remote", ""))
    url = config["remote"].get(name, {}).get("url", "")
    if not url:
        raise UserError(".dvc/config: names no default remote; add one with: dvc remote add -d NAME URL")
    if "://" not in url and not (Path(url).is_dir() and any(Path(url).iterdir())):
        raise UserError(
            f"{url}: the DVC remote {name!r} holds nothing; put the store of whoever ran `dvc push` there,"
            f" name another with `dvc remote modify --local {name} url PATH`, or make everything with"
            " snakemake"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m steps.workflow.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    making = commands.add_parser("stage", help="make a target for DVC to record")
    making.add_argument("target", metavar="TARGET")
    making.add_argument("folder", nargs="?", metavar="FOLDER")
    commands.add_parser("pull", help="fetch the published results")
    chosen = parser.parse_args(arguments)
    try:
        return stage(chosen.target, chosen.folder) if chosen.command == "stage" else pull()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("dvc", "snakemake"):
            raise
        print(
            f"error: {sys.executable} lacks {error.name}; activate the environment: . .venv/bin/activate",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
