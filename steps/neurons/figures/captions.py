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
    "correlation_summary": "The left panel shows each neuron's largest correlation, averaged over partners,"
    " the same with rotated partners, and the difference of the two, the excess. In the middle, partners"
    " agree where points lie on the dotted line. On the right, the share of a layer's neurons whose best"
    " match lies in each layer is shown, for partners of each depth.",
    "excess": "The left panel compares the excess of all neurons with what a further random rotation in place"
    " of the real partner would give. On the right, the same values are sorted; neurons that pass the"
    " calibrated test are blue.",
    "all": "Neurons of the reference in each family, by layer, are counted among all neurons and among the"
    " universal ones. A neuron belongs to a family if its best explanation holds up on held-out tokens.",
    "best": "For each family, this shows the universal neuron of the reference that its explanation fits best"
    " on held-out tokens.",
    **{
        name: f"{TITLES[name]} are shown: universal neurons of the reference whose best explanation, chosen"
        " on other tokens, is of this family. The best explained come first; the number is the held-out"
        " variance reduction."
        for name in FAMILIES
    },
    "clusters": "Neurons that are each other's best match across models form clusters. The panels show how"
    " large the clusters are and how often they recur when blocks of tokens are resampled.",
    **STATISTIC_CAPTIONS,
    **ROLE_CAPTIONS,
    **LOGIT_CAPTIONS,
    "attention": ATTENTION_CAPTION,
    **INTERVENTION_CAPTIONS,
}
