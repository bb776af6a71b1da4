"""Captions of the chapter's figures."""

from __future__ import annotations

from steps.neurons.explanations.families import FAMILIES
from steps.neurons.figures.attention import CAPTION as ATTENTION_CAPTION
from steps.neurons.figures.galleries import TITLES
from steps.neurons.figures.interventions import CAPTIONS as INTERVENTION_CAPTIONS
from steps.neurons.figures.logit_histograms import CAPTIONS as LOGIT_CAPTIONS
from steps.neurons.figures.roles import CAPTIONS as ROLE_CAPTIONS
from steps.neurons.figures.statistics import CAPTIONS as STATISTIC_CAPTIONS

CAPTIONS = {
    "correlation_summary": "Left: over partners, the mean of each neuron's largest correlation, the same with"
    " rotated partners, and their difference, the excess. Middle: partners agree where points lie on the"
    " dotted line. Right: of a layer's neurons, the share whose best match lies in each layer.",
    "excess": "Left: excess of all neurons beside what a further random rotation in place of the real partner"
    " would give. Right: the same, sorted; blue where the calibrated test calls it privileged basis.",
    "all": "How many neurons of the reference belong to each family, by layer: of all neurons, and of the"
    " universal ones. A family needs a best explanation that holds up on held-out tokens.",
    "best": "Of each family the universal neuron of the reference that its explanation fits best on held-out"
    " tokens.",
    **{
        name: f"{TITLES[name]}: universal neurons of the reference whose best explanation, chosen on other"
        " tokens, is of this family, those that it explains best first. The number is the held-out variance"
        " reduction."
        for name in FAMILIES
    },
    "clusters": "Clusters of neurons that are each other's best match across models, and how often they come"
    " back when blocks of tokens are resampled.",
    **STATISTIC_CAPTIONS,
    **ROLE_CAPTIONS,
    **LOGIT_CAPTIONS,
    "attention": ATTENTION_CAPTION,
    **INTERVENTION_CAPTIONS,
}
