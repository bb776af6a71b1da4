"""Where Dafny and Z3 are found, and which versions are refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from steps.core.errors import UserError
from steps.dafny.verifier import locate
from steps.dafny.verifier.locate import Tools, Verifier, find


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Dafny."""
    monkeypatch.delenv("DAFNY", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))


def test_the_order_in_which_it_is_looked_for(
    nowhere: None, stand_in: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(folder: Path) -> Path:
        folder.mkdir(parents=True)
        path = folder / "dafny"
        path.write_bytes(stand_in.dafny.read_bytes())
        path.chmod(0o755)
        return path

    verifier = Verifier(solver=str(stand_in.z3))
    assert find(verifier) is None
    on_path = copied(tmp_path / "path")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find(verifier) == Tools(on_path, stand_in.z3)
    made = copied(tmp_path / "prefix" / "dafny")
    assert find(verifier) == Tools(made, stand_in.z3)
    named = copied(tmp_path / "named with spaces & 'quotes'")
    monkeypatch.setenv("DAFNY", str(named))
    assert find(verifier) == Tools(named, stand_in.z3)
    assert find(verifier.model_copy(update={"command": str(stand_in.dafny)})) == stand_in


@pytest.mark.parametrize("key", ["command", "solver"])
def test_a_path_that_is_no_program_is_refused(stand_in: Tools, tmp_path: Path, key: str) -> None:
    named = {"command": str(stand_in.dafny), "solver": str(stand_in.z3), key: str(tmp_path)}
    with pytest.raises(UserError, match=f"dafny.verifier.{key}: found .*expected the path of a program"):
        find(Verifier(**named))


def test_the_variable_must_name_a_program(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAFNY", "/nowhere/dafny")
    with pytest.raises(UserError, match="the variable DAFNY: found '/nowhere/dafny'"):
        find(Verifier())


def test_another_version_is_refused_with_what_to_do(stand_in: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(command=str(stand_in.dafny), solver=str(stand_in.z3))
    with pytest.raises(
        UserError, match=r"found Z3 4.12.1, expected 4.8.12; .*set dafny.verifier.z3 to 4.12.1"
    ):
        find(verifier.model_copy(update={"z3": "4.8.12"}))
    monkeypatch.setenv("REPRISE_STAND_IN_VERSION", "4.3.0")
    with pytest.raises(
        UserError, match=r"found Dafny 4.3.0, expected 4.11.0; .*set dafny.verifier.dafny to 4.3.0"
    ):
        find(verifier)


def test_z3_is_found_through_the_list_of_files_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never imported."""
    monkeypatch.setenv("PATH", "/nowhere")
    found = locate._z3(None)
    assert found.name == "z3"
    assert os.access(found, os.X_OK)
    assert "z3" not in sys.modules


def test_what_changes_dotnet_does_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOTNET_gcServer", "1")
    monkeypatch.setenv("COMPlus_GCHeapHardLimit", "1")
    monkeypatch.setenv("DOTNET_ROOT", "/there")
    made = locate.environment(heap_mb=2)
    assert {"DOTNET_gcServer", "COMPlus_GCHeapHardLimit"}.isdisjoint(made)
    assert made["DOTNET_ROOT"] == "/there"
    assert made["DOTNET_GCHeapHardLimit"] == hex(2_000_000)


@pytest.mark.parametrize(
    ("system", "says"),
    [
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, "apt-get install dotnet-sdk-8.0"),
        ({"ID": "ubuntu", "VERSION_ID": "26.04"}, "apt-get install dotnet-sdk-10.0"),
        ({"ID": "debian", "VERSION_ID": "12"}, "Microsoft's installer"),
    ],
)
def test_this_systems_command_is_named(
    monkeypatch: pytest.MonkeyPatch, system: dict[str, str], says: str
) -> None:
    monkeypatch.setattr(locate, "_os_release", lambda: system)
    monkeypatch.setattr(sys, "platform", "linux")
    assert says in locate.missing()
    assert "make dafny" in locate.missing()
    assert "\n" not in locate.missing()
