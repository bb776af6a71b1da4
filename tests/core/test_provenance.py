"""Where results come from."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from steps.core.digest import code_digest
from steps.core.provenance import LIBRARIES, card, provenance


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
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "numpy"} <= set(found["versions"]) <= {"python", *LIBRARIES}


def test_a_card_names_its_rule_and_its_timings() -> None:
    made = card("Loss", 1.5, "nats", "low is good", step="language_models.train", study="ci", inputs=[])
    assert made["rule"] == "language_models_train"
    assert made["benchmark"] == "logs/language_models/train/ci/**/*.tsv"
    assert made["code"] == code_digest("language_models.train")
