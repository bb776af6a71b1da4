"""The formula of every rule of this chapter that can be heavy."""

from __future__ import annotations

from steps.neurons.costs import activations, correlations, explanations, figures, models, selection

FORMULAS = {
    **activations.FORMULAS,
    **correlations.FORMULAS,
    **selection.FORMULAS,
    **explanations.FORMULAS,
    **models.FORMULAS,
    **figures.FORMULAS,
}
"""By rule, ``moments`` for ``neurons_moments``."""
