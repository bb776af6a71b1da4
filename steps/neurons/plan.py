"""What a study of this chapter takes, before anything is submitted: bytes, FLOPs, memory, jobs, hours.

Needs no data and no network. Writes JSON and logs it as a table. The formulas (``costs``) are those from
which rules ask for memory and time.

Every rule of the chapter that can be heavy is in it. A multiplication and an addition are two FLOPs. Counted
are products of matrices: forward passes without the unembedding (attention in full, though half of it is
masked; interventions with it), products within layers (their upper triangle and what lies beside its
diagonal), products of pairs, rotations, products of weights. With ``dump.source: model`` every job that reads
activations runs the models again. Hours are FLOPs over the share of the peak that is reached, plus bytes over
the bandwidth of the disk. Whatever the device, one core of the host draws the rotations of
``neurons.correlate`` and summarises correlations, counts the bins of ``neurons.histograms``, draws the normal
numbers of ``neurons.similarity`` and, unless it has a device, forms the sums of ``neurons.explain``. Start-
up, scheduling and whatever else is no product are left out, and so are language models.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

from pydantic import Field

from steps.core.errors import size
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import write_json
from steps.neurons.costs.hardware import HARDWARE
from steps.neurons.costs.rules import FORMULAS
from steps.neurons.costs.study import ITEM, KINDS, Job, Study, stored_bytes

logger = logging.getLogger("reprise")


class Settings(BaseSettings):
    """How large models are whose configuration is not here, and on what hardware the study is to run."""

    renamed: ClassVar[dict[str, str]] = {"width": "d_mlp"}

    layers: int = Field(
        2,
        ge=1,
        le=10**6,
        description="MLP layers of listed models whose config.json is neither in a local folder nor in the"
        " hub's cache",
    )
    d_mlp: int = Field(256, ge=1, le=10**9, description="neurons per layer of such models")
    vocabulary: int = Field(512, ge=1, le=10**9, description="vocabulary size of such models")
    hardware: Literal["cpu_core", "v100", "a100", "h100"] = Field(
        "cpu_core", description="whose peak and memory, as its vendor says: cpu_core, v100, a100, h100"
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="peak of matrix products, in 1e12 FLOP/s; null: the vendor's figure for `precision`",
    )
    share: float = Field(0.5, gt=0, le=1, description="share of the peak that is reached")
    memory_gb: float | None = Field(
        None, gt=0, description="memory of one device in GB; null: the vendor's figure"
    )
    disk_gb_per_s: float = Field(1.0, gt=0, description="GB that one job reads and writes in a second")
    devices: int = Field(1, ge=1, le=10**9, description="devices that work at the same time")


def seconds(job: Job, study: Study, settings: Settings) -> float:
    """Of one device at the share of its peak that is reached, of a core of the host, and of the disk."""

    def speed(dtype: str) -> float:
        peak = HARDWARE[settings.hardware].peak[dtype]
        if settings.peak_tflops is not None:
            peak = settings.peak_tflops * 1e12
        return settings.share * peak

    # Rotations are formed in float32 where products are in 16 bits.
    precision = study.settings.precision
    wide = "float32" if ITEM[precision] == 2 else precision
    computing = (
        job.forward / speed(study.settings.dump.compute_dtype)
        + (job.within + job.products) / speed(precision)
        + job.rotations / speed(wide)
        + job.weights / speed("float32")
    )
    disk = (job.read + job.written + job.temporary) / (settings.disk_gb_per_s * 1e9)
    return computing + job.host + disk


def plan(study: Study, settings: Settings) -> dict[str, Any]:
    """All of it, as ``plan.json`` holds it; bytes, FLOPs and hours are totals, ``megabytes`` of one job."""
    hardware = HARDWARE[settings.hardware]
    memory = settings.memory_gb or hardware.memory
    rules = {}
    for rule, formula in sorted(FORMULAS.items(), key=lambda item: item[1].on_request):
        work = formula.jobs(study)
        if not work:
            continue
        rules[rule] = {
            "jobs": len(work),
            "megabytes": max(job.megabytes for job in work),
            **{f"flops_{kind}": sum(getattr(job, kind) for job in work) for kind in KINDS},
            "bytes_read": sum(job.read for job in work),
            "bytes_written": sum(job.written for job in work),
            "bytes_temporary": sum(job.temporary for job in work),
            "hours": sum(seconds(job, study, settings) for job in work) / 3600,
            "hours_longest_job": max(seconds(job, study, settings) for job in work) / 3600,
            "fits_memory": all(
                job.megabytes <= 1000 * memory or (job.on_host and settings.hardware != "cpu_core")
                for job in work
            ),
            "on_request": formula.on_request,
        }
    main_line = [row for row in rules.values() if not row["on_request"]]
    summed = [key for key in main_line[0] if key == "jobs" or key.startswith(("flops", "bytes"))]
    total: dict[str, Any] = {key: sum(row[key] for row in main_line) for key in summed}
    total["flops"] = sum(value for key, value in total.items() if key.startswith("flops"))
    total["megabytes"] = max(row["megabytes"] for row in main_line)
    total["hours"] = sum(row["hours"] for row in main_line)
    # What one rule waits for another is left out: at least the longest job of each.
    total["hours_on_all_devices"] = sum(
        max(row["hours"] / min(settings.devices, row["jobs"]), row["hours_longest_job"]) for row in main_line
    )
    # The dump that a study with dump.source: model does without.
    total["bytes_of_all_activations"] = sum(stored_bytes(study, m, study.tokens) for m in study.models)
    return {
        "study": study.model_dump(mode="json"),
        "hardware": {"name": settings.hardware, "what": hardware.what, "memory_gb": memory}
        | settings.model_dump(mode="json", exclude={"layers", "d_mlp", "memory_gb", "hardware"}),
        "rules": rules,
        "total": total,
    }


def table(planned: dict[str, Any]) -> str:
    """The plan for people."""
    study, hardware, total = planned["study"], planned["hardware"], planned["total"]
    of, dump = study["section"], study["section"]["dump"]
    lines = [f"study {of['study']}: {dump['tokens']:,} tokens, dump.source {dump['source']},"]
    lines[0] += f" {of['tiles']} tiles, {of['ranges']} ranges, products in {of['precision']}"
    for model in study["models"]:
        gated = ", gated" if model["gated"] else ""
        lines.append(
            f"  {model['name']}: {model['layers']} layers of {model['d_mlp']:,} neurons{gated}"
            f" ({model['read_from']})"
        )
    lines.append(f"hardware {hardware['name']}: {hardware['what']}")
    lines.append(
        f"  {100 * hardware['share']:.0f} % of the peak, {hardware['memory_gb']:g} GB,"
        f" disk {hardware['disk_gb_per_s']:g} GB/s, {hardware['devices']} at a time"
    )
    heads = ("rule", "jobs", "memory of a job", "FLOPs", "read", "written", "temporary", "hours")
    rows: list[tuple[str, ...]] = [heads]
    for rule, row in planned["rules"].items():
        flops = sum(value for key, value in row.items() if key.startswith("flops"))
        rows.append(_row(f"neurons_{rule}" + ("*" if row["on_request"] else ""), row, flops))
        if not row["fits_memory"]:
            rows[-1] = (*rows[-1][:2], rows[-1][2] + " (!)", *rows[-1][3:])
    rows.append(_row("all but *", total, total["flops"]))
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells))
    lines.append(
        f"FLOPs: {total['flops_forward']:.2g} forward, {total['flops_within']:.2g} within layers,"
        f" {total['flops_products']:.2g} products, {total['flops_rotations']:.2g} rotations,"
        f" {total['flops_weights']:.2g} products of weights"
    )
    lines.append(f"kept activations: {size(total['bytes_of_all_activations'])} if they were dumped")
    lines.append(f"{total['hours_on_all_devices']:.3g} hours on {hardware['devices']} at a time")
    lines.append("* no part of `snakemake neurons`: built only on request")
    if any(not row["fits_memory"] for row in planned["rules"].values()):
        lines.append(
            "(!) more memory than such a device has: raise neurons.tiles, or lower neurons.dump.block_tokens,"
            " neurons.explain.neurons_at_once or the tokens of the target. What the host holds is not marked"
            " where another device is planned for."
        )
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any], flops: float) -> tuple[str, ...]:
    sizes = (size(row[f"bytes_{kind}"]) for kind in ("read", "written", "temporary"))
    return (
        name,
        f"{row['jobs']:,}",
        size(1e6 * row["megabytes"]),
        f"{flops:.2g}",
        *sizes,
        "< 0.001" if 0 < row["hours"] < 0.001 else f"{row['hours']:.3g}",
    )


def main(study: Study, settings: Settings, out: Output) -> None:
    """Plan ``study``."""
    planned = plan(study, settings)
    write_json(out, planned)
    logger.info("%s", table(planned))


if __name__ == "__main__":
    run(main)
