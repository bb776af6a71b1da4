"""Reading through ``datasets``, streamed: nothing is downloaded whole, nothing kept in a cache."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CACHES = ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_HUB_CACHE")

_QUIET = {
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # it reports every file that is opened, local ones too
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "USE_TORCH": "0",  # it imports torch for streams where it can
    "USE_TF": "0",
    "USE_JAX": "0",
}


@contextlib.contextmanager
def streaming() -> Iterator[Callable[..., Any]]:
    """Give ``datasets.load_dataset_builder``, with its caches in a folder that goes away.

    ``datasets`` writes lock files, dataset cards and code there even when it streams. It takes its
    settings from the environment when it is imported.
    """
    with tempfile.TemporaryDirectory(prefix="reprise-") as cache:
        variables = {**_QUIET, **{name: str(Path(cache, name.lower())) for name in _CACHES}}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it also talks while imported
            import datasets
            from huggingface_hub.utils import logging as hub_logging

            datasets.disable_progress_bars()
            datasets.logging.set_verbosity(logging.CRITICAL)  # what it says, its exception says too
            hub_logging.set_verbosity(logging.CRITICAL)
            yield functools.partial(datasets.load_dataset_builder, cache_dir=cache)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
