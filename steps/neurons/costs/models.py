"""What opening models takes: their weights, attention, interventions."""

from __future__ import annotations

from steps.interp.sizes import ModelSize
from steps.interp.weights import BLOCK_VALUES
from steps.neurons.costs.study import (
    COLUMNS,
    ITEM,
    TOKEN_FEATURES,
    TOP_TOKEN,
    Formula,
    Job,
    Study,
    embedding_bytes,
    layer_bytes,
    neuron_table_bytes,
    opened_bytes,
)

BINS = 99
"""Of the histograms of cosines, see ``neurons.cosines``."""


def composition_bytes(model: ModelSize) -> float:
    """Of the file of ``neurons.composition``."""
    return (2 + model.vectors) * 4.0 * model.neurons * model.layers * model.heads


def cosine_bytes(study: Study, model: ModelSize) -> float:
    """Of the file of ``neurons.cosines``: of each vector's kinds with the vocabulary, and between neurons."""
    of = study.settings.cosines
    tokens, others = min(of.tokens, model.vocabulary), min(of.neurons, model.neurons)
    each, kinds = 4 * BINS + 8 * 4, model.vectors
    return float(model.neurons * kinds * (2 * (each + 16 * tokens) + kinds * (each + 16 * others)))


def composition_flops(model: ModelSize) -> float:
    """Of neurons with heads: neurons before a head meet three factors of it, the others one."""
    return (2.0 + model.vectors) * model.neurons * float(model.layers * model.d_model**2)


def weights(study: Study) -> list[Job]:
    """Cosines with the vocabulary; with ``redundancy`` half of those between all neurons, of each vector and
    once more of those that write; with ``composition`` also that.
    """
    of = study.settings.weights

    def held(model: ModelSize) -> float:
        units = 4.0 * model.vectors * model.neurons * model.d_model if of.redundancy else 0.0
        if of.composition:
            units += 4.0 * (model.neurons * model.d_model + model.layers * model.d_model**2)
        measured = 8 * 4.0 * min(BLOCK_VALUES, model.d_mlp * model.vocabulary)  # eight arrays
        features = 4.0 * TOKEN_FEATURES * model.vocabulary
        return units + embedding_bytes(model) + layer_bytes(model) + features + measured

    job = Job(
        held=max(map(held, study.models)) + (COLUMNS + 2 * TOP_TOKEN * of.effects) * study.neurons,
        weights=sum(
            2.0 * m.neurons * m.vocabulary * (m.d_model + TOKEN_FEATURES + 20)
            + 2.0 * m.vocabulary * m.d_model**2
            + of.redundancy * (1.0 + m.vectors) * m.neurons**2 * m.d_model
            + of.composition * composition_flops(m)
            for m in study.models
        ),
        read=sum(4.0 * (model.parameters + model.embeddings) for model in study.models),
        written=(300.0 + 30 * 2 * of.effects) * study.neurons,
    )
    return [job]


def composition(study: Study) -> list[Job]:
    """Neurons' unit vectors, one factor per head, a layer; the result, and once more while it is written."""
    return [
        Job(
            held=2 * composition_bytes(model)
            + 4.0 * (model.neurons * model.d_model + model.layers * model.d_model**2)
            + 2 * layer_bytes(model),
            weights=composition_flops(model),
            read=4.0 * (model.parameters + model.embeddings),
            written=composition_bytes(model),
        )
        for model in study.models
    ]


def cosines(study: Study) -> list[Job]:
    """All unit vectors; a block with its bins and powers; the result in parts, whole, and written."""
    return [_cosines(study, model) for model in study.models]


def _cosines(study: Study, model: ModelSize) -> Job:
    others = model.vectors * (2.0 * model.vocabulary + model.vectors * model.neurons)
    return Job(
        held=4.0 * model.vectors * model.neurons * model.d_model
        + embedding_bytes(model)
        + layer_bytes(model)
        + 10 * 4.0 * min(BLOCK_VALUES, model.d_mlp * max(model.d_mlp, model.vocabulary))
        + 3 * cosine_bytes(study, model),
        weights=2.0 * model.neurons * others * (model.d_model + 20),
        read=4.0 * (model.parameters + model.embeddings),
        written=cosine_bytes(study, model),
    )


def attention(study: Study) -> list[Job]:
    """The model and its layers preprocessed, all neurons' directions and scores, what a pass keeps."""
    of, model = study.settings.attention, study.models[0]
    item, batch = ITEM[of.dtype], max(of.batch_tokens, study.n_ctx)
    streams = (model.layers + 1) * model.d_model + 2 * model.neurons + 12 * model.d_mlp
    tokens = float(of.rows * study.n_ctx)
    projections = 10.0 * model.layers * model.d_model**2
    scores = 1.0 * model.neurons * model.layers * model.heads
    job = Job(
        held=item * (2.0 * model.parameters + 2 * model.embeddings + model.neurons * model.d_model)
        + item * batch * (streams + 3.0 * model.heads * study.n_ctx)
        + 8 * scores
        + opened_bytes(study),
        forward=2 * tokens * (model.forward(study.n_ctx) + projections) + scores * model.d_model,
    )
    return [job]


def intervene(study: Study) -> list[Job]:
    """One prediction of every token for each intervention, and the blocks that come after its neuron.

    Entropy neurons, what is opposite to them and controls are in the last two layers, others anywhere.
    """
    of, model = study.settings.intervene, study.models[0]
    item, batch = ITEM[of.dtype], max(of.batch_tokens, study.n_ctx)
    tokens = float(of.rows * study.n_ctx)
    whole = len(of.values) + len(of.clamps) + 3
    named = len(of.named) * whole
    late = (1 if of.named else of.candidates + 1) * whole + of.controls * (len(of.values) + 2)
    anywhere = named + 2 * of.ablated
    forward = model.forward(study.n_ctx)
    prediction = 2.0 * model.vocabulary * (model.d_model + 20)
    followed = 1 + (len(of.named) or of.candidates)
    streams = (model.layers + 2) * model.d_model + 2 * model.neurons + 12 * model.d_mlp
    job = Job(
        # All output weights are compared in float64; a batch has five arrays of logits.
        held=item * (model.parameters + 3 * model.embeddings)
        + (item + 24.0) * model.neurons * model.d_model
        + item * batch * (streams + 5.0 * model.vocabulary)
        + 16 * tokens * (2 + followed)
        + neuron_table_bytes(study)
        + opened_bytes(study),
        forward=tokens
        * ((2 + anywhere) * forward + late * forward / model.layers + (1 + anywhere + late) * prediction),
    )
    return [job]


FORMULAS = {
    "weights": Formula(weights),
    "attention": Formula(attention),
    "intervene": Formula(intervene),
    "composition": Formula(composition, on_request=True),
    "cosines": Formula(cosines, on_request=True),
}
"""By rule."""
