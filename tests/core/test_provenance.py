"""Where results come from."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core import provenance as module
from steps.core.digest import code_digest
from steps.core.provenance import LIBRARIES, card, provenance, versions
from steps.core.stores import Ledger, write_json, write_table
from steps.core.tensors import write_tensors

ROOT = Path(__file__).resolve().parents[2]


def test_everything_that_decides_a_result_is_named(tmp_path: Path) -> None:
    inputs = [tmp_path / name for name in ("b", "a")]
    for path in inputs:
        path.write_text(path.name)
    found = provenance(["core.stores"], {"seed": 1}, inputs)
    assert found["settings"] == {"seed": 1}
    assert found["code"] == {"core.stores": code_digest("core.stores")}
    assert found["inputs"] == {
        (tmp_path / name).as_posix(): hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")
    }


def test_versions_are_those_that_made_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the process that asks: it may run after an upgrade."""
    installed = {"numpy": "1.0", "torch": "1.1", "pandas": "1.2"}
    monkeypatch.setattr(module, "_installed", installed.get)
    python = platform.python_version()
    Ledger(tmp_path / "model/ledger.json", "model", {}, ("torch",)).finish({})
    write_tensors(tmp_path / "x.safetensors", {"a": np.zeros(2)}, {"kind": "k"})
    write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.parquet")
    write_json(tmp_path / "list.json", [{"versions": {"torch": "0.9"}}, {"versions": {"torch": "1.1"}}])
    installed |= {"numpy": "2.0", "torch": "2.1", "pandas": "2.2", "zarr": "3.0"}
    write_tensors(tmp_path / "later.safetensors", {"a": np.zeros(2)}, {"kind": "k"})

    def found(*names: str, **programs: str) -> dict[str, str]:
        versions = provenance([], {}, [tmp_path / name for name in names], programs)["versions"]
        assert list(versions) == sorted(versions)
        return versions

    earlier = {"numpy": "1.0", "pandas": "1.2", "python": python, "torch": "1.1"}
    assert found("model/ledger.json") == {"python": python, "torch": "1.1"}
    assert found("x.safetensors") == found("t.parquet") == found("x.safetensors", "t.parquet") == earlier
    assert found("list.json") == {"torch": "0.9, 1.1"}
    both = {"numpy": "1.0, 2.0", "pandas": "1.2, 2.2", "python": python, "torch": "1.1, 2.1", "zarr": "3.0"}
    assert found("x.safetensors", "later.safetensors") == both
    assert found("model/ledger.json", dafny="4.9.0", z3="4.12") == {
        **{"dafny": "4.9.0", "python": python, "torch": "1.1", "z3": "4.12"}
    }


@pytest.mark.parametrize(
    "content", ["null", "[]", "[1, null]", "{}", '{"versions": null}', '{"versions": [1]}', '"versions"']
)
def test_a_file_that_says_nothing_of_versions_adds_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "page.html").write_text(content)
    inputs = [tmp_path / name for name in ("x.json", "t.parquet", "page.html")]
    assert provenance([], {}, inputs)["versions"] == {}


def test_versions_are_read_without_importing_anything() -> None:
    code = "import sys\nfrom steps.core.provenance import versions\nversions()\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "zarr"} & set(done.stdout.split())
    assert {"torch", "numpy", "python"} <= set(versions()) <= {"python", *LIBRARIES}
    assert set(versions(("numpy", "no_such_library"))) == {"python", "numpy"}


def test_a_card_names_its_rule_and_its_records() -> None:
    made = card("Loss", 1.5, "nats", "low is good", step="language_models.train", study="ci", inputs=[])
    assert made["rule"] == "language_models_train"
    assert made["records"] == "logs/language_models/train/ci/**/*.json"
    assert made["code"] == code_digest("language_models.train")
