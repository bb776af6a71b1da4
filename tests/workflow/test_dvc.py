"""Snakemake makes, DVC records, and no record is false (docs/versions.md).

Run in small copies of the repository, whose remote is a folder beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from steps.core import digest
from steps.core.settings import deciding
from steps.workflow import configuration
from steps.workflow.section import StudySection
from tests.warm.start import environment
from tests.workflow.conftest import RULES, TINY, Workspace, hashes, write_texts

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "constraints.txt"]
SOURCES += ["data/README.md"]
SOURCES += ["Snakefile", "config", "profiles", "rules", "steps"]

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CHAPTERS = {path.stem for path in (ROOT / "rules").glob("*.smk")}


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


class Copy:
    """A copy of the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "dvc.lock"

    def run(self, *command: str, arguments: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``python -m ...`` here, with this environment's ``python`` first on the path."""
        variables = environment() | {"SNAKEMAKE_ARGS": arguments, "REPRISE_WARM_TOO": "snakemake"}
        variables.pop("SNAKEMAKE_PROFILE", None)
        variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def git(self, *command: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *command], cwd=self.folder, check=True, capture_output=True)

    def publish(self, held_out: float) -> None:
        """Publish the tiny workflow with this share of held-out text."""
        settings = read(TINY)
        settings["corpus"]["documents"]["held_out"] = held_out
        (self.folder / "config/publish.yaml").write_text(yaml.safe_dump(settings))

    def recorded(self) -> tuple[float, float]:
        """The share that ``dvc.lock`` names, and that with which the corpus was made."""
        settings = read(self.lock)["stages"]["corpus"]["params"]["config/publish.yaml"]
        made = read(self.folder / "data/corpora/tiny/manifest.json")["settings"]
        return settings["corpus"]["documents"]["held_out"], made["held_out"]


def copy_sources(folder: Path) -> Copy:
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    copy = Copy(folder)
    copy.git("init", "--quiet")
    return copy


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory, workspace: Workspace) -> Copy:
    """A copy in which the tiny workflow was made, recorded and pushed."""
    copy = copy_sources(tmp_path_factory.mktemp("dvc") / "the publisher")
    for name in ("texts", "data", "results", "logs", ".snakemake"):
        shutil.copytree(workspace.finished() / name, copy.folder / name, symlinks=True, dirs_exist_ok=True)
    publish_tiny(copy)
    made = record(copy)
    assert "Nothing to be done for neurons" in made.stdout
    return copy


def publish_tiny(copy: Copy, *stages: str) -> None:
    """Let ``dvc.yaml`` list the tiny workflow's outputs, of all stages or those that are named."""
    declared = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    declared = re.sub(r"((?:data/(?!raw)|results/)\w+/)(?:embedded|default)\b", r"\1tiny", declared)
    content = yaml.safe_load(declared)
    del content["stages"]["text"]  # the corpus is made from the folder of texts
    content["stages"]["corpus"]["deps"].remove("data/raw/embedded")
    if stages:
        content["stages"] = {name: content["stages"][name] for name in stages}
        for key in ("metrics", "plots", "artifacts"):
            del content[key]
    (copy.folder / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    copy.publish(0.25)


def record(copy: Copy) -> subprocess.CompletedProcess[str]:
    """Make everything that ``dvc.yaml`` lists, commit and push it."""
    made = copy.run("dvc", "repro")
    assert made.returncode == 0, made.stderr
    copy.git("add", ".")
    copy.git("commit", "--quiet", "-m", "published")
    pushed = copy.run("dvc", "push")
    assert pushed.returncode == 0, pushed.stderr
    return made


def fresh(publisher: Copy) -> Copy:
    folder = Path(tempfile.mkdtemp(prefix="clone ", dir=publisher.folder.parent))
    publisher.git("clone", "--quiet", ".", str(folder))
    assert [path.name for path in (folder / "data").iterdir()] == ["README.md"]
    return Copy(folder)


@pytest.fixture
def clone(publisher: Copy) -> Copy:
    """A fresh clone beside the publisher: sources and ``dvc.lock``, no results."""
    return fresh(publisher)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy in which the corpus alone was made, recorded and pushed."""
    copy = copy_sources(tmp_path_factory.mktemp("corpus") / "the publisher")
    write_texts(copy.folder / "texts")
    publish_tiny(copy, "corpus")
    record(copy)
    return copy


@pytest.fixture
def small_clone(small: Copy) -> Copy:
    """A fresh clone beside the publisher of the corpus."""
    return fresh(small)


@pytest.fixture
def twin(publisher: Copy) -> Copy:
    """The publisher once more, results and Snakemake's notes included."""
    folder = publisher.folder.parent / "twin"
    shutil.copytree(publisher.folder, folder, symlinks=True)
    return Copy(folder)


# What dvc.yaml says, compared with rules, code and configuration


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """For each stage, Snakemake's summary of the files in its outputs that its targets need."""
    copy = copy_sources(tmp_path_factory.mktemp("sources") / "copy")
    code = (
        "import json, sys; from steps.workflow import versions\n"
        "for words in json.load(sys.stdin): print(json.dumps(versions.results(*versions.within(*words))))"
    )
    words = [stage["cmd"].split()[4:] for stage in STAGES.values()]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(words),
        cwd=copy.folder,
        env=os.environ | {"PYTHONPATH": str(copy.folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(STAGES, rows, strict=True))


def outs(name: str) -> list[Path]:
    folders = []
    for item in STAGES[name]["outs"]:
        [(folder, options)] = item.items()
        assert options == {"persist": True}
        folders.append(Path(folder))
    return folders


def inside(row: dict[str, str], folders: list[Path]) -> bool:
    return any(folder in Path(row["output_file"]).parents for folder in folders)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_records_all_that_it_makes(name: str, made: dict[str, list[dict[str, str]]]) -> None:
    known = list(STAGES)[: list(STAGES).index(name)]
    before = [folder for stage in known for folder in outs(stage)]
    assert [row for row in made[name] if inside(row, outs(name))]
    strangers = [row["output_file"] for row in made[name] if not inside(row, outs(name) + before)]
    assert not strangers
    # and nothing is left to the stages after it
    late = {row["output_file"] for rows in made.values() for row in rows if inside(row, outs(name))}
    assert late == {row["output_file"] for row in made[name] if inside(row, outs(name))}


@pytest.mark.parametrize("name", [name for name in STAGES if name != "text"])
def test_a_stage_depends_on_all_that_decides_its_results(
    name: str, made: dict[str, list[dict[str, str]]]
) -> None:
    rules = {row["rule"] for row in made[name] if inside(row, outs(name))}
    dependencies = [Path(item) for item in STAGES[name]["deps"]]
    needed = {Path("Snakefile"), Path("constraints.txt"), Path("steps/workflow")}
    chapters = set()
    for rule in rules:
        [chapter] = [chapter for chapter in CHAPTERS if rule.startswith(chapter + "_")]
        chapters.add(chapter)
        step = re.search(r"python -m steps\.([\w.]+)", RULES[rule])
        assert step is not None
        needed |= {Path(file) for file in digest.code_files(step[1])}
        needed.add(Path(f"rules/{chapter}.smk"))
    upstream = {row["output_file"] for row in made[name] if not inside(row, outs(name))}
    assert len(needed) > 5
    missing = {path for path in needed if not any(item in (path, *path.parents) for item in dependencies)}
    assert not missing
    # Upstream results: what an upstream stage was made from is recorded there.
    recorded = {Path(item) for stage in STAGES.values() for item in stage.get("deps", [])}
    assert all(any(folder in Path(file).parents for folder in recorded) for file in upstream)
    assert all((ROOT / item).exists() or item.parts[0] in ("data", "results") for item in dependencies)

    shared = [key for key in read(ROOT / "config/default.yaml") if key not in CHAPTERS]
    default, publish = STAGES[name]["params"]
    assert publish == {"config/publish.yaml": None}  # the whole file
    sections = default["config/default.yaml"]
    assert sections is None or {*shared, *chapters} <= set(sections)


def test_publish_only_names_studies_that_dvc_records() -> None:
    publish = read(ROOT / "config/publish.yaml")
    folders = {folder for name in STAGES for folder in outs(name)}
    sections = configuration.configure(publish).sections()
    assert publish.keys() == {name for name, section in sections.items() if isinstance(section, StudySection)}
    for chapter, section in sections.items():
        if isinstance(section, StudySection):
            places = [Path(place) for place in section.made if not place.startswith("data/raw")]
            places += [Path("results") / chapter] if section.report_file() else []
            assert {place / section.study for place in places} <= folders


def test_metrics_plots_and_artifacts_are_made(made: dict[str, list[dict[str, str]]]) -> None:
    files = {row["output_file"] for rows in made.values() for row in rows}
    declared = read(ROOT / "dvc.yaml")
    assert set(declared["metrics"]) | set(declared["plots"]) <= files
    folders = {str(folder) for name in STAGES for folder in outs(name)}
    assert {item["path"] for item in declared["artifacts"].values()} <= folders


def test_the_readme_of_data_names_every_folder_that_is_recorded() -> None:
    page = (ROOT / "data/README.md").read_text(encoding="utf-8")
    kept = {folder.parts[1:] for name in STAGES for folder in outs(name) if folder.parts[0] == "data"}
    assert kept
    for first, second in kept:
        assert f"`{first}/{second}`" in page or f"`{first}/STUDY`" in page


# What happens


def test_what_was_recorded_is_up_to_date(publisher: Copy) -> None:
    assert publisher.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    before = publisher.lock.read_bytes()
    again = publisher.run("dvc", "repro")
    assert "Stage 'neurons' didn't change, skipping" in again.stdout
    assert publisher.lock.read_bytes() == before
    assert publisher.recorded() == (0.25, 0.25)


def recorded_settings(folder: Path) -> dict[str, tuple[Any, Any]]:
    """For each chapter, the settings that ``dvc.lock`` names and those that its results name."""
    found = {}
    chapters = configuration.reports(configuration.Config())
    for name, where in {
        "corpus": "data/corpora/{}/manifest.json",
        **{chapter: f"results/{chapter}/{{}}/report.json" for chapter in chapters},
    }.items():
        params = read(folder / "dvc.lock")["stages"][name]["params"]
        values = params["config/default.yaml"]
        update_config(values, params["config/publish.yaml"])
        section = getattr(configuration.configure(values), name)
        result = read(folder / where.format(section.study))
        if name == "corpus":
            found[name] = deciding(section.documents), result["settings"]
        else:
            found[name] = deciding(section), result["provenance"]["settings"]
    return found


def test_the_lock_names_the_settings_of_the_results(publisher: Copy) -> None:
    for name, (locked, made) in recorded_settings(publisher.folder).items():
        assert locked == made, name


def test_to_a_clone_to_a_change_and_back(publisher: Copy, clone: Copy) -> None:
    older = clone.lock.read_bytes()

    # Fetched results of other settings: Snakemake has no notes on them and would find nothing to do.
    clone.publish(0.5)
    pulled = clone.run("steps.workflow.versions", "pull")
    assert pulled.returncode == 1
    assert "corpus: settings, code or files differ from dvc.lock" in pulled.stderr
    assert pulled.stdout.splitlines()[-1] == "Nothing to be done for: no stage"
    assert clone.recorded() == (0.25, 0.25)
    refused = clone.run("dvc", "repro", "corpus")
    assert refused.returncode != 0
    [message] = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert "not made here" in message
    assert "make pull" in message
    assert "--forceall -- corpus" in message
    assert clone.lock.read_bytes() == older

    # The remedy: settings as they were, then pull.
    clone.publish(0.25)
    pulled = clone.run("steps.workflow.versions", "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.splitlines()[-1].startswith(
        "Nothing to be done for: corpus, models, language_models"
    )
    dry = clone.run("snakemake", "--dry-run", "--configfile", "config/publish.yaml")
    assert "Nothing to be done" in dry.stdout + dry.stderr
    ours, theirs = hashes(clone.folder), hashes(publisher.folder)
    left_out = {name for name in theirs if "/pre/" in name}
    assert left_out
    assert theirs.keys() - ours.keys() == left_out
    assert all(theirs[name] == ours[name] for name in ours)

    # Now Snakemake sees the change.
    clone.publish(0.5)
    made = clone.run("dvc", "repro", "corpus")
    assert made.returncode == 0, made.stderr
    assert clone.recorded() == (0.5, 0.5)

    # Snakemake has notes, but of what lay there before: it would find nothing to do for 0.5.
    clone.lock.write_bytes(older)
    assert clone.run("dvc", "checkout", "corpus").returncode == 0
    assert clone.recorded() == (0.25, 0.25)
    refused = clone.run("dvc", "repro", "corpus")
    assert refused.returncode != 0
    assert "not made here" in refused.stderr
    assert clone.lock.read_bytes() == older


def test_a_stage_says_which_file_was_touched(twin: Copy) -> None:
    os.utime(twin.folder / "results/neurons/tiny/metrics.json")
    refused = twin.run("steps.workflow.versions", "stage", "neurons")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: results/neurons/tiny/metrics.json: not made here")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--config seed=1", "found --config,"),
        ("--configfile=config/default.yaml", "found --configfile=config/default.yaml,"),
        ("--cores 1 --touch", "found --touch,"),
        ("--dry-run", "still to be made"),
        # split like a shell would
        ("--cores 1 --workflow-profile 'my profile'", "unrecognized arguments: --no-such-option=1"),
    ],
)
def test_arguments_say_how_and_not_what(clone: Copy, arguments: str, message: str) -> None:
    (clone.folder / "my profile").mkdir()
    (clone.folder / "my profile/config.yaml").write_text("no-such-option: 1\n")
    done = clone.run("steps.workflow.versions", "stage", "corpus", arguments=arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not (clone.folder / "data/corpora").exists()


def put_nothing(store: Path) -> None:
    pass


@pytest.mark.parametrize("make", [put_nothing, Path.mkdir], ids=["missing", "empty"])
def test_pull_says_that_the_remote_holds_nothing(clone: Copy, make: Callable[[Path], None]) -> None:
    store = clone.folder / "empty-store"
    make(store)
    assert clone.run("dvc", "remote", "modify", "--local", "local", "url", str(store)).returncode == 0
    pulled = clone.run("steps.workflow.versions", "pull")
    assert pulled.returncode == 2
    assert pulled.stderr.startswith(f"error: {store}: the DVC remote 'local' holds nothing")
    assert len(pulled.stderr.splitlines()) == 1


def test_pull_says_that_nothing_was_published(clone: Copy) -> None:
    clone.lock.unlink()
    pulled = clone.run("steps.workflow.versions", "pull")
    assert pulled.returncode == 2
    assert pulled.stderr.startswith("error: dvc.lock: missing, nothing was published here")


def pull(copy: Copy, *messages: str, expect: int = 0) -> str:
    """Run ``make pull``'s command; it must end with this code and these messages."""
    pulled = copy.run("steps.workflow.versions", "pull")
    assert pulled.returncode == expect, pulled.stderr
    for message in messages:
        assert message in pulled.stderr + pulled.stdout
    return pulled.stderr


DOCUMENTS = "data/corpora/tiny/documents.parquet"


def damage(path: Path) -> None:
    """Flip a bit; size, time and mode stay as they were."""
    content, facts = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(facts.st_mode)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def stored(store: Path, path: Path) -> Path:
    """Where a DVC store or cache keeps this file."""
    name = hashlib.md5(path.read_bytes()).hexdigest()
    return store / "files/md5" / name[:2] / name[2:]


def own_store(copy: Copy) -> Path:
    """Give a clone a store of its own, as any other remote: nothing says that it is to be verified."""
    store = copy.folder / "store"
    shutil.copytree(copy.folder.parent / "reprise-store", store)
    assert copy.run("dvc", "remote", "add", "--local", "--default", "mine", str(store)).returncode == 0
    return store


def test_a_flipped_bit_in_the_store_is_noticed(small: Copy, small_clone: Copy) -> None:
    store = own_store(small_clone)
    spoilt = stored(store, small.folder / DOCUMENTS)
    whole = spoilt.read_bytes()
    damage(spoilt)
    message = f"corpus: {DOCUMENTS}: damaged or unreadable in the DVC remote; remove {spoilt} there"
    pull(small_clone, message, "Nothing to be done for: no stage", expect=1)
    assert not (small_clone.folder / DOCUMENTS).exists()
    assert not stored(small_clone.folder / ".dvc/cache", small.folder / DOCUMENTS).exists()

    # the list of the corpus's files
    spoilt.chmod(0o644)
    spoilt.write_bytes(whole)
    [out] = read(small.lock)["stages"]["corpus"]["outs"]
    listed = store / "files/md5" / out["md5"][:2] / out["md5"][2:]
    damage(listed)
    shutil.rmtree(small_clone.folder / ".dvc/cache")
    pull(
        small_clone,
        f"corpus: data/corpora/tiny: damaged or unreadable in the DVC remote; remove {listed}",
        expect=1,
    )
    damage(listed)  # the bit flips back
    pull(small_clone, "Nothing to be done for: corpus")
    assert (small_clone.folder / DOCUMENTS).read_bytes() == whole

    # One lost file costs nothing else. (DVC alone would remove the folder.)
    stored(small_clone.folder / ".dvc/cache", small_clone.folder / DOCUMENTS).unlink()
    spoilt.unlink()
    (small_clone.folder / DOCUMENTS).unlink()
    ignored = small_clone.folder / "data/corpora/tiny/.a.part"
    ignored.touch()
    pull(small_clone, f"corpus: {DOCUMENTS}: missing in the DVC remote", expect=1)
    assert ignored.exists()
    assert (ignored.parent / "manifest.json").exists()


def test_dvc_itself_verifies_our_remote(small: Copy, small_clone: Copy) -> None:
    shutil.copytree(small.folder.parent / "reprise-store", small_clone.folder / "store")
    damage(stored(small_clone.folder / "store", small.folder / DOCUMENTS))
    where = small_clone.run(
        "dvc", "remote", "modify", "--local", "local", "url", str(small_clone.folder / "store")
    )
    assert where.returncode == 0
    assert small_clone.run("dvc", "pull").returncode == 1
    assert not (small_clone.folder / DOCUMENTS).exists()


def test_what_the_cache_or_the_disk_spoilt_is_fetched_again(small: Copy, small_clone: Copy) -> None:
    whole = (small.folder / DOCUMENTS).read_bytes()
    pull(small_clone)
    damage(stored(small_clone.folder / ".dvc/cache", small_clone.folder / DOCUMENTS))
    (small_clone.folder / DOCUMENTS).unlink()
    assert small_clone.run("dvc", "checkout").returncode == 0
    assert (small_clone.folder / DOCUMENTS).read_bytes() != whole
    assert "up to date" in small_clone.run("dvc", "status").stdout  # it believes what it put there
    pull(small_clone, f"{DOCUMENTS}: damaged, is fetched again")
    assert (small_clone.folder / DOCUMENTS).read_bytes() == whole


def test_put_back_after_a_run_without_dvc(small_clone: Copy) -> None:
    pull(small_clone)
    published = hashes(small_clone.folder)
    small_clone.publish(0.5)
    made = small_clone.run(
        "snakemake", "--configfile", "config/publish.yaml", "--quiet", "all", "--", "corpus"
    )
    assert made.returncode == 0, made.stderr
    changed = hashes(small_clone.folder)
    assert changed != published

    # Settings of today made these results: nobody takes them away.
    pull(small_clone, "corpus: settings, code or files differ from dvc.lock; left as it is", expect=1)
    assert hashes(small_clone.folder) == changed

    # Back again, what they made is outdated; but what no rule made exists once.
    small_clone.publish(0.25)
    notes = small_clone.folder / "data/corpora/tiny/my notes/today.txt"
    notes.parent.mkdir()
    notes.write_text("dear diary")
    error = pull(small_clone, expect=2)
    assert error.splitlines()[-1].startswith(
        "error: data/corpora/tiny/my notes/today.txt: not made by the workflow"
    )
    assert hashes(small_clone.folder).items() >= changed.items()
    notes.unlink()
    pull(small_clone, "modified: data/corpora/tiny", "Nothing to be done for: corpus")
    assert hashes(small_clone.folder) == published


def test_a_frozen_stage_is_refused(small_clone: Copy) -> None:
    """DVC would record it with the settings of today beside the results of yesterday, without asking us."""
    declared = (small_clone.folder / "dvc.yaml").read_text()
    refused = small_clone.run("dvc", "freeze", "corpus")
    assert refused.returncode != 0
    assert "parametrized" in refused.stderr
    assert (small_clone.folder / "dvc.yaml").read_text() == declared
    (small_clone.folder / "dvc.yaml").write_text(
        declared.replace("  corpus:\n", "  corpus:\n    frozen: true\n")
    )
    for command in (["pull"], ["stage", "neurons"]):
        refused = small_clone.run("steps.workflow.versions", *command)
        assert refused.returncode == 2
        [message] = refused.stderr.splitlines()
        assert message.startswith("error: dvc.yaml: found `frozen` at stage 'corpus'")


@pytest.mark.parametrize("name", STAGES)
def test_dvc_cannot_freeze_a_stage(name: str) -> None:
    assert "${" in STAGES[name]["cmd"]
    assert "frozen" not in STAGES[name]


def test_an_experiment_is_applied_without_a_store(small_clone: Copy) -> None:
    pull(small_clone)
    small_clone.git("config", "user.name", "test")
    small_clone.git("config", "user.email", "test@localhost")
    # In a folder of its own, DVC brings results without Snakemake's notes and times; so they are copied.
    copied = [word for name in (".snakemake", "data/corpora") for word in ("--copy-paths", name)]
    setting = "config/publish.yaml:++corpus.documents.held_out=0.5"
    tried = small_clone.run("dvc", "exp", "run", "--temp", "--name", "half", *copied, "--set-param", setting)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert small_clone.recorded() == (0.25, 0.25)
    where = small_clone.run(
        "dvc", "remote", "modify", "--local", "local", "url", str(small_clone.folder / "none")
    )
    assert where.returncode == 0

    assert small_clone.run("dvc", "exp", "apply", "half").returncode == 0
    assert small_clone.recorded() == (0.5, 0.5)
    refused = small_clone.run("steps.workflow.versions", "stage", "corpus")
    assert refused.returncode == 2
    assert "run `make pull`" in refused.stderr
    pull(small_clone, "Nothing to be done for: corpus")  # the cache has it
    assert small_clone.run("steps.workflow.versions", "stage", "corpus").returncode == 0
    small_clone.publish(0.75)
    assert small_clone.run("dvc", "repro").returncode == 0
    assert small_clone.recorded() == (0.75, 0.75)


def test_a_copied_folder_has_other_times(small_clone: Copy) -> None:
    pull(small_clone)
    copy = Copy(small_clone.folder.with_name(small_clone.folder.name + " copied"))
    shutil.copytree(small_clone.folder, copy.folder, copy_function=shutil.copyfile, symlinks=True)
    refused = copy.run("steps.workflow.versions", "stage", "corpus")
    assert refused.returncode == 2
    assert "not made here" in refused.stderr
    pull(copy, "Nothing to be done for: corpus")
    assert copy.run("steps.workflow.versions", "stage", "corpus").stdout == "Nothing to be done for corpus\n"
