"""Put the calls of all batches into one file: what ``recorded`` verdicts are made of.

Reads the calls that proving and verifying left (JSON lines). Writes them, each once, sorted by key. `make
record` puts those of the default study beside the embedded programs.
"""

from __future__ import annotations

import json
from pathlib import Path

from steps.core.runner import Output, run


def main(calls: list[Path], out: Output) -> None:
    """Merge them."""
    lines = {line for path in calls for line in path.read_text(encoding="utf-8").split("\n") if line}
    ordered = sorted(lines, key=lambda line: json.loads(line)[0])
    out.write_text("".join(f"{line}\n" for line in ordered), encoding="utf-8")


if __name__ == "__main__":
    run(main)
