"""Models on disk: folders of kind ``fractal_model``, ``config.json`` and ``model.safetensors`` (float32)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.stores import Folder, Ledger, read_json, write_json
from steps.fractal.generators.shapes import Architecture, Images

if TYPE_CHECKING:
    from steps.fractal.generators.levels import Fractal

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save(model: Fractal, ledger: Ledger) -> None:
    """Write a model into the folder of a ledger."""
    from safetensors.torch import save_file

    write_json(
        ledger.place(CONFIG),
        {"architecture": model.architecture.model_dump(), "images": model.images._asdict()},
    )
    ledger.record(CONFIG)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, ledger.place(WEIGHTS))
    ledger.record(WEIGHTS)


def load(ledger: Path, device: str = "cpu") -> Fractal:
    """The model of a folder, in float32 and evaluation mode.

    Raises:
        UserError: the folder is damaged or something else, or there is no such device.
    """
    from safetensors.torch import load_file

    from steps.core.devices import torch_device
    from steps.fractal.generators.levels import Fractal

    place = torch_device(device)
    folder = Folder(ledger, "fractal_model")
    config = read_json(folder.check(CONFIG))
    model = Fractal(Architecture(**config["architecture"]), Images(**config["images"]))
    model.load_state_dict(load_file(folder.check(WEIGHTS)))
    return model.to(place).eval()
