"""The universal set: three rules, ties, neurons that never vary, and none at all."""

from __future__ import annotations

import numpy as np
import pandas as pd

from steps.neurons.selection.universal import chosen, describe


def excess() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "excess_corr": [0.1, 0.7, 0.3, 0.3, 0.9],
            "universal": [False, True, False, False, True],
            "privileged_basis": [True, True, False, True, False],
            "constant": [False, False, False, False, True],
        }
    )


def test_each_rule() -> None:
    assert chosen(excess(), "half", 0.05).tolist() == [False, True, False, False, True]
    assert chosen(excess(), "calibrated", 0.05).tolist() == [True, True, False, True, False]
    # the earlier of equal ones, and never one that does not vary
    assert chosen(excess(), "top_share", 0.4).tolist() == [False, True, True, False, False]


def test_the_whole_and_nothing() -> None:
    assert chosen(excess(), "top_share", 1.0).tolist() == [True, True, True, True, False]
    assert not chosen(excess(), "top_share", 0.05).any()
    assert chosen(excess().iloc[:0], "half", 0.05).shape == (0,)


def test_a_missing_excess_is_not_universal() -> None:
    table = excess().astype({"universal": "boolean", "privileged_basis": "boolean", "constant": "boolean"})
    table.loc[1] = [np.nan, pd.NA, pd.NA, pd.NA]
    assert chosen(table, "half", 0.05).tolist() == [False, False, False, False, True]
    assert chosen(table, "calibrated", 0.05).tolist() == [True, False, False, True, False]
    assert chosen(table, "top_share", 0.4).tolist() == [False, False, True, True, False]


def test_figures_name_the_set() -> None:
    assert describe("half", 0.05, 0) == "no neurons taken as universal: excess correlation above 0.5"
    assert describe("top_share", 0.025, 1) == "1 neuron taken as universal: the 2.5 % of largest excess"
    assert describe("calibrated", 0.05, 1234).startswith("1,234 neurons taken as universal: privileged basis")
