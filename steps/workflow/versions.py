"""Between Snakemake, which makes results, and DVC, which records them; docs/versions.md explains it.

``python -m steps.workflow.versions stage TARGET [FOLDER]``
    What a stage of ``dvc.yaml`` runs: ``snakemake $SNAKEMAKE_ARGS`` with the published settings for a
    target, or for that part of it which lies in FOLDER. A record that names settings and code beside
    results that others made would be false, and Snakemake alone does not prevent it: it believes files
    that it has no notes on, and misses that DVC exchanged some. So every result that exists must be one
    that Snakemake made or touched here, as its time tells, and afterwards nothing may be left to do.

``python -m steps.workflow.versions pull``
    ``dvc pull``, after which Snakemake takes over the results of every stage whose settings, code and
    files are those of ``dvc.lock``: it has nothing left to do for them.

Exit codes: 0 done, 1 not all that was wanted, 2 the user's mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from steps.core.errors import UserError

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
        UserError: results of unknown origin, settings in ``SNAKEMAKE_ARGS``, or work that is left.
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
    targets = within(target, folder)
    if strangers := not_made_here(*targets):
        raise UserError(
            f"{_some(strangers)}: not made here with these settings and this"
            " code as far as Snakemake knows; put both back as dvc.lock has them and run `make pull`, or"
            f" make them anew: snakemake {' '.join(CONFIGURATION)} --forceall -- {target}"
        )
    if not unfinished(*targets):
        print(f"Nothing to be done for {target}")
        return 0
    done = subprocess.run(_snakemake(*arguments, *CONFIGURATION, "--", *targets), check=False)
    if done.returncode == 0 and (left := unfinished(*targets)):
        raise UserError(
            f"{_some(left)}: still to be made; take out of SNAKEMAKE_ARGS (or of the"
            " profile) what keeps Snakemake from making everything"
        )
    return done.returncode


def pull() -> int:
    """Fetch the published results and let Snakemake know them.

    Returns:
        0 where nothing is left to do, 1 where DVC lacked something or a stage differs from ``dvc.lock``.

    Raises:
        UserError: nothing was published, or the remote holds nothing.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        _require_remote(repo.config)
        stages = [item for item in repo.index.stages if getattr(item, "name", None)]
        commands = {item.name: str(item.cmd) for item in stages if all(out.hash_info for out in item.outs)}
    command = [sys.executable, "-m", "dvc", "pull", *commands]
    fetched = subprocess.run(command, check=False).returncode == 0
    with Repo() as repo:
        # With those it depends on: a result is no better than what it was made from.
        clean = [name for name in commands if not repo.status(targets=[name], with_deps=True)]
    targets = [file for name in clean for file in within(*shlex.split(commands[name])[4:])]
    if targets and (not_made_here(*targets) or unfinished(*targets)):
        # In one call: a later one would make what an earlier one touched look outdated.
        touch = ("--touch", "--forceall", "--cores", "1", "--quiet", "all")
        subprocess.run(_snakemake(*touch, *CONFIGURATION, "--", *targets), check=True)
    for name in commands:
        if name not in clean:
            print(f"{name}: settings, code or files differ from dvc.lock; left as it is", file=sys.stderr)
    if targets and (left := unfinished(*targets)):
        raise UserError(f"{_some(left)}: still to be made; run snakemake")
    print(f"Nothing to be done for: {', '.join(clean) or 'no stage'}")
    return int(not fetched or len(clean) < len(commands))


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


def not_made_here(*targets: str) -> list[str]:
    """Existing results of the targets that Snakemake did not make or touch, or that changed since."""
    from snakemake.persistence.file import FilePersistence

    records = FilePersistence(nolock=True)
    present = [row["output_file"] for row in results(*targets) if Path(row["output_file"]).exists()]
    # Snakemake was killed before it knew whether these are whole, and makes them again.
    suspect = records._filter_incomplete_keys(present)
    strangers = []
    for path in present:
        record = records._read_record(path)
        made = record.endtime if record else None
        if path not in suspect and (made is None or abs(Path(path).stat().st_mtime - made) > _SAME_TIME):
            strangers.append(path)
    return strangers


def unfinished(*targets: str) -> list[str]:
    """Results of the targets that Snakemake would make."""
    return [row["output_file"] for row in results(*targets) if row["plan"] == "update pending"]


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
    if not Path("dvc.lock").exists():
        raise UserError("dvc.lock: missing, nothing was published here; make everything with snakemake")
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
