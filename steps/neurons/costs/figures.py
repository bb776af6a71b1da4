"""What drawing takes, and laying out pages."""

from __future__ import annotations

from steps.neurons.costs.activations import counts_bytes
from steps.neurons.costs.correlations import summaries_bytes
from steps.neurons.costs.explanations import profile_bytes
from steps.neurons.costs.study import (
    COLUMNS,
    TOKEN_FEATURES,
    TOP_TOKEN,
    Formula,
    Job,
    Study,
    embedding_bytes,
    layer_bytes,
    loaded_bytes,
    neuron_table_bytes,
    opened_bytes,
    reading,
)


def logit_histograms(study: Study) -> list[Job]:
    """The unembedding of the reference."""
    first = study.models[0]
    job = Job(
        held=embedding_bytes(first)
        + layer_bytes(first)
        + 4.0 * TOKEN_FEATURES * first.vocabulary
        + COLUMNS * study.neurons,
        weights=3 * 2.0 * first.vocabulary * first.d_model,
        read=4.0 * first.embeddings,
        on_host=True,
    )
    return [job]


def gallery(study: Study) -> list[Job]:
    """Profiles of all models, one model's counts."""
    held = COLUMNS * study.neurons + counts_bytes(study)
    return [Job(held=held + sum(profile_bytes(study, model) for model in study.models), on_host=True)]


def figure(study: Study) -> list[Job]:
    """The neuron table, the correlations of the reference's pairs."""
    summaries = summaries_bytes(study, reference=True)
    return [Job(held=neuron_table_bytes(study) + 2 * summaries, read=summaries, on_host=True)]


def page(study: Study) -> list[Job]:
    """The rows of its examples (of a store, their blocks); tokens that neurons promote."""
    of, left = study.settings.page, study.settings.page.neurons
    job = Job(
        held=neuron_table_bytes(study)
        + opened_bytes(study, len(study.models))
        + counts_bytes(study)
        + 2 * TOP_TOKEN * study.settings.weights.effects * study.neurons
        + _models(study),
        on_host=True,
    )
    each = study.settings.dump.block_tokens if study.keeps_activations else study.n_ctx
    for model in study.models:  # the neurons of the reference come first
        shown = min(left, model.neurons)
        job.add(reading(study, min(study.tokens, shown * of.examples * each), model))
        left -= shown
    return [job]


def report(study: Study) -> list[Job]:
    """The rows of its snippets, the correlations of the reference's pairs."""
    of, summaries = study.settings.report, summaries_bytes(study, reference=True)
    job = Job(
        held=COLUMNS * study.neurons
        + 2 * summaries
        + opened_bytes(study, len(study.models))
        + _models(study),
        read=summaries,
        on_host=True,
    )
    job.add(reading(study, of.clusters * of.snippets * study.n_ctx, *study.models))
    return [job]


def _models(study: Study) -> float:
    """Of models that compute what pages show, where no activations are kept."""
    return 0.0 if study.keeps_activations else sum(loaded_bytes(study, model) for model in study.models)


FORMULAS = {
    "logit_histograms": Formula(logit_histograms),
    "gallery": Formula(gallery),
    "figure": Formula(figure),
    "page": Formula(page),
    "report": Formula(report),
}
"""By rule."""
