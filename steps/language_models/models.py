"""Opening and writing the models and the tokenizer of this chapter; other chapters use it too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.devices import torch_device, torch_dtype
from steps.core.errors import UserError
from steps.core.stores import Folder, Ledger, read_json
from steps.language_models.architectures import FAMILIES, compute_in_float64, config_class, model_class

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel


def load(
    ledger: Path, device: str = "cpu", dtype: str = "float32", checkpoint: str | None = None
) -> PreTrainedModel:
    """Open a language model of any family for evaluation, after its files were compared with their hashes.

    Args:
        ledger: the model's ledger (``data/models/STUDY/MODEL/ledger.json``).
        device: where it goes.
        dtype: what its weights are converted to. Always given: transformers would otherwise
            take the type they are stored in. In float64 everything is computed in float64.
        checkpoint: such as ``checkpoints/step-000100``; the finished model by default.

    Raises:
        UserError: a file is missing or differs from its hash, the model is of an unknown family, or
            there is no such device.
    """
    folder = Folder(ledger, "language_model")
    prefix = f"{checkpoint}/" if checkpoint else ""
    kind = family(read_json(folder.check(f"{prefix}config.json")), folder.path)
    weights = folder.check(f"{prefix}model.safetensors")
    where = torch_device(device)
    quiet()
    import torch

    model: PreTrainedModel = model_class(kind).from_pretrained(
        weights.parent,
        dtype=torch_dtype(dtype),
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
    )
    if dtype == "float64":
        compute_in_float64(model)
    model.eval()
    torch.nn.Module.to(model, where)  # the model's own is typed wrongly
    return model


def config(ledger: Path, checkpoint: str | None = None) -> PreTrainedConfig:
    """The configuration of a model, or of one of its checkpoints, without the weights."""
    name = f"{checkpoint}/config.json" if checkpoint else "config.json"
    content = read_json(Folder(ledger, "language_model").check(name))
    return config_class(family(content, ledger)).from_dict(content)


def skeleton(ledger: Path, checkpoint: str | None = None) -> PreTrainedModel:
    """A model without its weights, on torch's ``meta`` device: its parts and sizes, at no cost of memory."""
    import torch

    described = config(ledger, checkpoint)
    with torch.device("meta"):
        model: PreTrainedModel = model_class(described.model_type)(described)
    return model


def family(config: object, path: Path) -> str:
    """The family of a model, one of ``FAMILIES``.

    Args:
        config: contents of its ``config.json``.
        path: where they are from, for the message.

    Raises:
        UserError: another one.
    """
    found = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(found, str) or found not in FAMILIES:
        raise UserError(f"{path}: found the model type {found!r}, supported are: {', '.join(FAMILIES)}")
    return found


def save(model: PreTrainedModel, ledger: Ledger, folder: str = "") -> None:
    """Write a model in Hugging Face format into ``folder`` of a ledger's folder, in its own dtype."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        where = ledger.place(str(Path(folder, name))).parent
    model.save_pretrained(where, max_shard_size="1000TB")  # one file, however large
    (where / "generation_config.json").unlink(missing_ok=True)
    shutil.copymode(where / "config.json", where / "model.safetensors")  # others may read it too
    for name in ("config.json", "model.safetensors"):
        ledger.record(str(Path(folder) / name))


def quiet() -> None:
    """Keep transformers from drawing progress bars into logs and warning of what is meant."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(ledger: Path) -> Tokenizer:
    """Open a tokenizer (``data/models/STUDY/tokenizer/ledger.json``).

    Raises:
        UserError: a file is missing or differs from its hash.
    """
    return read_tokenizer(Folder(ledger, "tokenizer").check("tokenizer.json"))


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``, without the truncation and padding that it may ask for.

    Raises:
        UserError: it is missing or holds something else.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{path}: not a tokenizer in Hugging Face format ({error}); replace it") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
