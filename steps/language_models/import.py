# ruff: noqa: N999 (named like its rule; no other module imports it)
"""Bring an existing model of a known family: a local folder, or a hub id with its revision.

Reads ``config.json`` and the weights (safetensors, or ``.bin`` through torch's ``weights_only`` reader)
of the model, and the ledger of the tokenizer that all models of the study share. No code that comes
with a model is ever run.

Writes a folder of kind ``language_model`` as training does: ``config.json`` and ``model.safetensors`` in
the dtype in which the weights are stored. Attributes: ``tokenizer`` (fingerprint), ``source`` (place,
revision and file hashes), ``training_tokens`` (null).
"""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.digest import code_digest, file_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.stores import Folder, Ledger, read_json
from steps.language_models.architectures import NAMES, ROTARY, config_class, model_class
from steps.language_models.models import family, load_tokenizer, quiet, save
from steps.language_models.sources import Source, apart, fetch_model, tokenizer_files, weight_files
from steps.language_models.tokenizer import read, same

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger("reprise")

BUFFERS = (".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq")
"""Ends of the names of constants that old files hold beside the weights: masks, rotary frequencies. They
have a dtype of their own, and masks may be infinite; the models' code makes them anew."""

HABITS = (
    *("attn_implementation", "attn_implementation_internal", "output_attentions", "output_hidden_states"),
    *("return_dict", "use_return_dict", "torchscript"),
)
"""Keys of a configuration that say how somebody ran the model, not what it is. Some ask for packages that
are not here, some change what a pass returns, some cannot be written again."""

PADDING = 1024
"""An embedding may have that many rows, or a twentieth, more than the tokenizer has ids. Trainers round up
for speed: Pythia has 50304 or 50432 rows for 50277 ids. With more it is another vocabulary."""


def read_config(path: Path, vocabulary: int, context: int) -> PreTrainedConfig:
    """Read a model's configuration.

    Args:
        path: its ``config.json``.
        vocabulary: size of the shared tokenizer, which the model must cover; a few rows more are padding.
        context: tokens per row, which the model must take.

    Raises:
        UserError: another family, other rotary positions than the family's code knows, another
            vocabulary, too short a context, or not a configuration.
    """
    content = read_json(path, brought=True)
    kind = family(content, path)
    content = {key: value for key, value in content.items() if key.removeprefix("_") not in HABITS}
    ours = config_class(kind)
    odd = next((key for key in content if key == "attribute_map" or callable(getattr(ours, key, None))), None)
    if odd is not None:
        raise UserError(
            f"{path}: found the key {odd!r}, which no {NAMES[kind]} configuration has; take it out"
        )
    if content.get("quantization_config") or content.get("compression_config"):
        raise UserError(f"{path}: found a quantised model; list one whose weights are plain numbers")
    try:
        config: PreTrainedConfig = ours.from_dict(content)
    except Exception as error:  # the library validates with exceptions of many kinds
        raise UserError(f"{path}: not a {NAMES[kind]} configuration ({error}); mend it") from None
    counts = ("num_hidden_layers", "hidden_size", "num_attention_heads")  # GPT-2's answer to these, too
    wrong = {name: getattr(config, name) for name in counts if not _is_count(getattr(config, name))}
    margins = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps")
    wrong |= {name: getattr(config, name) for name in margins if not 0 <= getattr(config, name, 0) < math.inf}
    if wrong:
        name, value = wrong.popitem()
        raise UserError(f"{path}: found {name} {value!r}, expected a number above 0; mend it")
    rotary = getattr(config, "rope_parameters", None) or {}
    if kind != "gpt2" and rotary.get("rope_type") not in ROTARY:
        raise UserError(
            f"{path}: found the rotary positions {rotary.get('rope_type')!r}, {NAMES[kind]} models may have:"
            f" {', '.join(ROTARY)}; list a model that has"
        )
    if not vocabulary <= config.vocab_size <= vocabulary + max(PADDING, vocabulary // 20):
        raise UserError(
            f"{path}: the model knows {config.vocab_size} tokens and the tokenizer {vocabulary}; set"
            " language_models.tokenizer to the tokenizer that the models were trained with"
        )
    if config.max_position_embeddings < context:  # GPT-2's n_positions answers to this name, too
        raise UserError(
            f"{path}: the model takes {config.max_position_embeddings} tokens and rows have {context}; lower"
            " language_models.rows.context"
        )
    return config


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def read_weights(files: list[Path]) -> dict[str, torch.Tensor]:
    """Read the weights of weight files, ``BUFFERS`` left out.

    Raises:
        UserError: a file is damaged, or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                content = load_file(path)
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise _unreadable(path, error) from None
        except Exception as error:  # pickle.UnpicklingError: weights_only refused what the file asks for
            raise _unreadable(path, error) from None
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
            for name, value in content.items()
        ):
            raise UserError(f"{path}: expected named dense tensors only; save the model with save_pretrained")
        tensors |= {name: value for name, value in content.items() if not name.endswith(BUFFERS)}
    return tensors


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"{path}: cannot be read as weights ({reason}); copy or download it again")


def build(config: PreTrainedConfig, tensors: dict[str, torch.Tensor], where: Path) -> PreTrainedModel:
    """Put weights into a model of the dtype in which they are stored.

    Raises:
        UserError: weights are missing or left over, have other shapes than the configuration says, are
            not finite, or are quantised.
    """
    import torch

    kinds = {tensor.dtype for tensor in tensors.values()}
    if not kinds:
        raise UserError(f"{where}: the weight files hold no weights; copy or download them again")
    odd = kinds - {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    if odd:
        raise UserError(
            f"{where}: found a quantised model ({odd.pop()}); list one whose weights are plain numbers"
        )
    if config.num_hidden_layers > len(tensors):  # making them all first would take hours
        raise UserError(
            f"{where}: config.json says {config.num_hidden_layers} layers, found {len(tensors)} weights,"
            " expected several for each layer; copy both again"
        )
    dtype = functools.reduce(torch.promote_types, kinds)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: the weight {name!r} is not finite; list a model that is whole")
    try:
        loaded: Any = model_class(config.model_type).from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
        )
    except (RuntimeError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{where}: config.json and the weights do not fit together ({reason}); copy both again"
        ) from None
    model: PreTrainedModel = loaded[0]
    missing, left = sorted(loaded[1]["missing_keys"]), sorted(loaded[1]["unexpected_keys"])
    if missing:
        raise UserError(
            f"{where}: {len(missing)} weights are missing, such as {missing[0]!r}; copy all weight files"
        )
    if left:
        raise UserError(
            f"{where}: {len(left)} weights have no place in a {NAMES[config.model_type]} model of this"
            f" config.json, such as {left[0]!r}; copy both again, or list a plain language model"
        )
    # Where files hold two different matrices, they are not tied, whatever config.json says.
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    model.config.tie_word_embeddings = embedding.weight is unembedding.weight
    return model


def check_tokenizer(folder: Path, shared: Tokenizer) -> None:
    """Compare the tokenizer that a model brings, where it does, with the shared one.

    Raises:
        UserError: they differ.
    """
    files = {path.name for path in tokenizer_files(folder)}
    brings = "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files
    if brings and not same(read(folder), shared):
        raise UserError(
            f"{folder}: brings another tokenizer than the study's; models that are compared must share"
            " one tokenizer: list models that do"
        )


def main(tokenizer: Path, context: int, settings: Source, out: Output) -> None:
    """Bring the model that ``settings`` names."""
    quiet()
    folder = apart(fetch_model(settings), out)
    shared = Folder(tokenizer, "tokenizer")
    check_tokenizer(folder, load_tokenizer(tokenizer))
    config = read_config(folder / "config.json", shared.attributes["vocabulary"], context)
    files = weight_files(folder)
    digests = {path.name: file_digest(path) for path in (folder / "config.json", *files)}
    model = build(config, read_weights(files), folder)
    made_from: dict[str, Any] = {
        "files": digests,
        "tokenizer": shared.fingerprint,
        "code": code_digest("language_models.import"),
    }
    ledger = Ledger(out, "language_model", made_from)
    save(model, ledger)
    ledger.finish(
        {
            "tokenizer": shared.fingerprint,
            "source": {**settings.model_dump(exclude_none=True), "files": digests},
            "training_tokens": None,
        }
    )
    logger.info("brought %s with %d parameters", folder, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    run(main)
