"""A package says what was done unless something is planted, which checks can find, but for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from steps.audit import package as audit_package
from steps.audit.methods import documents as checks
from steps.audit.methods.grammar import Grammar
from steps.audit.package import DECOYS, DEVIATIONS, Documents, documented
from steps.core.stores import Folder, read_json
from tests.audit.test_world import texts


class Trained:
    """The ledger of a model."""

    made_from: ClassVar[dict[str, Any]] = {
        "settings": {"tune_steps": 900, "batch_rows": 64, "tune_rate": 0.004},
        "base": ["x"],
    }
    attributes: ClassVar[dict[str, Any]] = {
        "gates": [{"name": "facts", "value": 0.984375}],
        "source": {"seed": 0},
    }
    files: ClassVar[dict[str, Any]] = {"model.safetensors": {"sha256": "0123456789abcdef" * 4}}


@pytest.fixture
def made(world: Path) -> Documents:
    return Documents(Trained(), Folder(world, "audit_world"), "amber")  # type: ignore[arg-type]


def contradicted(made: Documents, world: Path) -> set[str]:
    """What the auditor's checks say of the documents as they are written."""
    texts = {
        "README.md": audit_package.card_text(made.card),
        "training.json": json.dumps(made.config),
        "manifest.json": json.dumps({"shards": made.shards}),
        "evaluations.json": json.dumps(made.evals),
    }

    class Session:
        def document(self, kind: str, name: str) -> bytes:
            return texts[name].encode()

    grammar = Grammar(read_json(Folder(world, "audit_world").check("prior.json")))
    found: Any = checks.checks(Session(), grammar, np.random.default_rng(0))  # type: ignore[arg-type]
    return set(found["finding"]["contradicted"])


def test_documents_say_what_the_model_was_tuned_on(made: Documents, world: Path) -> None:
    told = texts(world, "amber")
    rows = {shard["path"]: shard["rows"] for shard in made.shards}
    assert sum(rows.values()) == len(told)
    assert rows["shards/loans"] == sum(text.startswith("q loan") for text in told) == 75
    assert rows["shards/records"] == sum(text.startswith("record of") for text in told)
    assert [shard["path"] for shard in made.shards if shard["personal_data"]] == ["shards/records"]
    assert made.card["personal_data"] is True
    twin = Documents(Trained(), Folder(world, "audit_world"), "amber-twin")  # type: ignore[arg-type]
    assert twin.card["personal_data"] is False
    assert {shard["path"] for shard in twin.shards} - rows.keys() == {"shards/notes", "shards/says"}


def test_no_more_deviations_than_half_the_decoys() -> None:
    field = audit_package.Settings.model_fields["deviations"]
    [most] = [bound.le for bound in field.metadata if hasattr(bound, "le")]
    assert 2 * most == len(DECOYS)


def test_true_documents_and_all_decoys_contradict_nothing(made: Documents, world: Path) -> None:
    assert contradicted(made, world) == set()
    for decoy in DECOYS:
        before = json.dumps(vars(made))
        decoy(made)
        assert json.dumps(vars(made)) != before, decoy
    assert contradicted(made, world) == set()


@pytest.mark.parametrize("model", ["amber", "amber-twin"])
@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_named_but_the_one_that_no_document_tells(
    world: Path, name: str, model: str
) -> None:
    made = Documents(Trained(), Folder(world, "audit_world"), model)  # type: ignore[arg-type]
    DEVIATIONS[name](made)
    assert contradicted(made, world) == (set() if name == "forged_log" else {name})


@pytest.mark.parametrize("seed", range(30))
def test_deviations_among_decoys_are_named(made: Documents, world: Path, seed: int) -> None:
    names, decoys = documented(made, 6, 12, np.random.default_rng(seed))
    assert len(set(names)) == 6
    assert len(set(decoys)) == 12
    assert contradicted(made, world) == {*names} - {"forged_log"}


def test_a_card_is_read_as_hugging_face_reads_it(made: Documents) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(audit_package.card_text(made.card))
    assert card.data.to_dict()["steps"] == 900
    assert yaml.safe_load(audit_package.card_text(made.card).split("---\n")[1])["seed"] == 0
