"""What tables of neurons take while rules choose among them."""

from __future__ import annotations

from steps.neurons.costs.activations import counts_bytes
from steps.neurons.costs.correlations import moment_bytes, summaries_bytes
from steps.neurons.costs.study import COLUMNS, Formula, Job, Study, neuron_table_bytes, opened_bytes


def baseline(study: Study) -> list[Job]:
    """The correlations of the reference's pairs."""
    summaries = summaries_bytes(study, reference=True)
    return [Job(held=COLUMNS * study.models[0].neurons + 2 * summaries, read=summaries, on_host=True)]


def table(study: Study) -> list[Job]:
    """One model's moments and counts, all examples, the correlations of the reference's pairs."""
    summaries, examples = summaries_bytes(study, reference=True), study.settings.moments.examples
    job = Job(
        held=neuron_table_bytes(study)
        + 2 * summaries
        + opened_bytes(study, len(study.models))
        + counts_bytes(study)
        + 2 * (72.0 + 12 * examples) * study.largest.neurons
        + 120.0 * examples * study.neurons,
        read=summaries + study.settings.ranges * sum(moment_bytes(study, model) for model in study.models),
        on_host=True,
    )
    return [job]


def roles(study: Study) -> list[Job]:
    """The neuron table."""
    return [Job(held=neuron_table_bytes(study), on_host=True)]


def published(study: Study) -> list[Job]:
    """A published table of neurons."""
    return [Job(on_host=True)]


FORMULAS = {
    "baseline": Formula(baseline),
    "table": Formula(table),
    "roles": Formula(roles),
    "published": Formula(published, on_request=True),
}
"""By rule."""
