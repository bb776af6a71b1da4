"""Families of neurons, labelled by rule from their best explanation (docs/neurons.md).

A neuron is in a family if its best explanation, chosen in-sample, holds up on held-out tokens (significant
at false discovery rate q, variance reduction of at least a minimum) and the neuron *fires on* it, that is,
the difference of means is positive. For position, firing must also inform about the position (mutual
information above that of chance, at the same rate). First rule that fits:

===============  ===================================================================================
family           best explanation
===============  ===================================================================================
bos              the token is BOS
position         the profile over positions, without BOS's position (its sign means nothing)
previous_token   any feature of the previous token
alphabet         the unigram of one letter, or tokens that begin with a letter
unigram          a unigram group or token feature
syntax           a label of the surrounding text: word class, Python's tokens, spaCy
context          the source of the text, or a topic set
===============  ===================================================================================

``none``: anything else, also a neuron that a feature silences. The paper labels families by hand and counts
none of them; the rules and their thresholds are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

FAMILIES = ("bos", "position", "previous_token", "alphabet", "unigram", "syntax", "context")
"""In the order of the rules; without ``none``."""


def letter(name: str, group: str) -> str | None:
    """The letter that a feature is about, where it is about one."""
    if group == "unigram":
        key = name.removeprefix("unigram ")[1:-1]
        return key if len(key) == 1 and key.isalpha() else None
    return name.removeprefix("letter_") if name.startswith("letter_") else None


def family(which: str, group: str, name: str, positive: bool, holds_up: bool) -> str:
    """The family of a neuron.

    Args:
        which: current, previous or position.
        group: of the best feature.
        name: of the best feature.
        positive: whether the neuron is higher where the feature holds.
        holds_up: whether the explanation is significant and strong enough on held-out tokens; for position
            also whether firing informs about it.
    """
    if not holds_up or not (positive or which == "position"):
        return "none"
    if which == "position":
        return "position"
    if which == "previous":
        return "previous_token"
    if group == "bos":
        return "bos"
    if group in ("source", "topic"):
        return "context"
    if group == "syntax":
        return "syntax"
    return "alphabet" if letter(name, group) else "unigram"


def family_counts(families: Sequence[str]) -> dict[str, int]:
    """Metrics ``family_count_<family>``, of every family."""
    return {f"family_count_{name}": sum(item == name for item in families) for name in FAMILIES}
