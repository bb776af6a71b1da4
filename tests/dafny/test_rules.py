"""The chapter's rules: what they read, and mistakes that are noticed before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.core.errors import UserError
from steps.workflow import configuration, dafny
from tests.dafny.conftest import EMBEDDED, ROOT


def user_files(**section: object) -> dict[str, list[str]]:
    config = configuration.configure({"dafny": section})
    return configuration.user_files(config)["dafny"]


def test_by_default_what_comes_along_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration.Config()
    monkeypatch.chdir(tmp_path)
    assert configuration.user_files(config)["dafny"] == {"programs": [], "odd": [], "answers": []}
    assert len(dafny.program_files(config)) >= 40
    assert dafny.answer_files(config) == [str(EMBEDDED / "answers.jsonl")]
    assert dafny.recorded(config) == [str(EMBEDDED / "recorded.jsonl")]
    monkeypatch.chdir(ROOT)  # a clone may move
    assert dafny.recorded(config) == ["steps/dafny/embedded/recorded.jsonl"]


def test_a_folder_is_declared_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.dfy", "in/a.dfy", "no.txt", "odd{x}.dfy", ".git/old.dfy", ".hidden.dfy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("method M() { }\n")
    found = user_files(programs={"folder": str(tmp_path)})
    assert found["programs"] == [str(tmp_path / "b.dfy"), str(tmp_path / "in/a.dfy")]
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert user_files(programs={"folder": f"~/{tmp_path.name}"}) == found
    [odd] = found["odd"]
    assert odd.startswith(str(tmp_path / "odd{x}.dfy"))
    config = configuration.configure({"dafny": {"programs": {"folder": str(tmp_path)}}})
    assert dafny.program_files(config) == dafny.answer_files(config) == dafny.recorded(config) == []


@pytest.mark.parametrize("outputs", ["model_outputs", "reconstructed_files", "results/reconstructed_files"])
def test_the_benchmark_s_files_are_declared(
    outputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they lie in its repository; a table without answers is passed over."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "test.json").write_text("[]")
    tables = f"{outputs}/../results_summary"
    for name in (f"{outputs}/m_outputs.json", f"{tables}/m_results.csv", f"{tables}/other_results.csv"):
        (tmp_path / name).parent.resolve().mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = user_files(programs={"test_json": "~/test.json"}, generate={"replay": "~"})
    assert found["programs"] == [str(tmp_path / "test.json")]
    assert [Path(path).name for path in found["answers"]] == ["m_outputs.json", "m_results.csv"]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"programs": {"folder": "/nowhere"}}, "dafny.programs.folder: found '/nowhere', expected a folder"),
        ({"programs": {"folder": "/nowhere\0"}}, "dafny.programs.folder: found"),
        ({"programs": {"folder": str(Path(__file__).parent)}}, "dafny.programs.folder: found no .dfy file"),
        ({"programs": {"test_json": "/nowhere.json"}}, "dafny.programs.test_json: found '/nowhere.json'"),
        (
            {"programs": {"folder": str(EMBEDDED / "programs")}, "generate": {"replay": "/nowhere"}},
            "dafny.generate.replay: found no NAME_outputs.json under reconstructed_files or model_outputs",
        ),
        ({"generate": {"replay": "/nowhere"}}, "generate.replay only with programs.folder or programs.test"),
        (
            {"programs": {"test_json": "/any"}, "verifier": {"verdicts": "recorded"}},
            "verifier.verdicts: recorded only with the embedded programs",
        ),
        ({"programs": {"samples": 3}}, "dafny.programs.samples: unknown key .* did you mean 'sample'"),
        ({"verifier": {"dafny": "2.3.0"}}, "dafny.verifier.dafny: found '2.3.0'"),
    ],
)
def test_mistakes_are_named(section: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        user_files(**section)


def test_paths_of_programs_decide_nothing() -> None:
    config = configuration.configure({"dafny": {"verifier": {"command": "/a", "solver": "/b"}}})
    assert "/a" in configuration.runtime_settings(config)["dafny.verifier"]
    assert "/a" not in configuration.tracked(config.dafny.verifier)(None)
    assert "/a" not in configuration.tracked(config.dafny)(None)
