"""Tables of others are classified by the paper's rules; nothing in them is taken on trust."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import published


def example() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": [22, 23, 23, 10, 10, 23],
            "neuron": [5, 7, 2, 0, 1, 9],
            "excess_corr": [0.6, 0.5, np.nan, 0.51, 0.2, np.nan],
            "l2_penalty": [5.0, 1.0, 4.0, 3.0, 2.9, 1.0],
            "kurt": [3.0, 10.0, 3.0, 10.0, 3.0, 3.0],
            "vocab_var": [0.0004, 0.0002, 0.0051, 0.0004, 0.006, 0.0004],
            "vocab_skew": [1.0, -0.1, 0.0, 0.5, 0.2, -3.0],
            "vocab_kurt": [11.0, 3.0, 9.0, 2.0, 10.0, 12.0],
            "comment": ["=1+1", "a,b", '"', "x", "y", "<script>"],
        }
    )


EXPECTED_ROLES = ["prediction", "", "partition", "", "partition", "suppression"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "csv.gz", "tsv.csv"])
def test_every_rule_on_an_example(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    example().to_parquet(path) if suffix == "parquet" else example().to_csv(path, index=False)
    out = Output(tmp_path / ".found.parquet.part")
    published.main(path, out)
    found = pd.read_parquet(out)
    assert found["universal"].tolist() == [True, False, False, True, False, False]
    assert found["role"].tolist() == EXPECTED_ROLES
    ranks = found["entropy_rank[medium]"].fillna(0).tolist()
    assert ranks == [0, 1, 0, 0, 0, 0]
    assert found["entropy_rank[small]"].fillna(0).tolist() == [0, 0, 2, 1, 0, 0]
    assert found["entropy_rank[pythia]"].fillna(0).tolist() == [0, 0, 0, 1, 0, 0]


def test_out_may_be_csv(tmp_path: Path) -> None:
    path, out = tmp_path / "table.csv", tmp_path / "found.csv"
    example().to_csv(path, index=False)
    command = [sys.executable, "-m", "steps.neurons.published", "--table", str(path), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "universal: 2, prediction: 1, suppression: 1, partition: 2" in done.stderr
    assert pd.read_csv(out)["role"].fillna("").tolist() == EXPECTED_ROLES


def test_without_a_column_the_other_rules_still_apply() -> None:
    found, skipped = published.classify(example().drop(columns="kurt"))
    assert [line.split(":")[0] for line in skipped] == ["entropy query small", "entropy query medium"]
    assert all("lacks kurt" in line for line in skipped)
    assert "entropy_rank[pythia]" in found
    assert found["role"].tolist() == EXPECTED_ROLES
    found, skipped = published.classify(example().drop(columns=["excess_corr", "vocab_skew"]))
    assert "universal" not in found
    assert "role" not in found
    assert skipped[0].startswith("universal: not applied, the table lacks excess_corr")


def test_the_excess_may_come_as_its_two_parts() -> None:
    table = (
        example().drop(columns="excess_corr").assign(mean_corr=0.8, mean_baseline=[0.2, 0.31, 0, 0.29, 1, 1])
    )
    found, _ = published.classify(table)
    assert found["universal"].tolist() == [True, False, True, True, False, False]


def test_models_are_ranked_each_for_itself(tmp_path: Path) -> None:
    both = pd.concat([example().assign(model=name) for name in ("a", "b")], ignore_index=True)
    both.to_csv(tmp_path / "t.csv", index=False)
    found, _ = published.classify(published.read_table(tmp_path / "t.csv"))
    np.testing.assert_array_equal(
        found.loc[:5, "entropy_rank[small]"].fillna(0), found.loc[6:, "entropy_rank[small]"].fillna(0)
    )
    both.drop(columns="model").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match=r"6 neurons are there twice.*column model"):
        published.read_table(tmp_path / "t.csv")


def test_cells_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    table = example().astype(object)
    table.loc[0, "vocab_kurt"] = "high"
    table.loc[0, "excess_corr"] = "1_000"
    table.loc[3, "excess_corr"] = " 0.9 "
    table.loc[1, "vocab_var"] = "inf"
    table.columns = [name.upper() if name == "layer" else f" {name}" for name in table.columns]
    table.to_csv(tmp_path / "t.csv", index=False, encoding="utf-8-sig")
    found, _ = published.classify(published.read_table(tmp_path / "t.csv"))
    assert found["universal"].tolist() == [False, False, False, True, False, False]
    assert found["role"].tolist() == ["", "", *EXPECTED_ROLES[2:]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a table as parquet or CSV"),
        (b"PAR1 but not really", "expected a table as parquet or CSV"),
        (b"\xff\xfe\x00\x01", "expected a table as parquet or CSV"),
        (b"a,b\n1,2\n", "lacks the columns layer, neuron"),
        (b"layer,neuron,Layer\n1,2,3\n", "has the column 'layer' twice"),
        (b"layer,neuron\n1.5,2\n", "row 1: found '1.5' as layer"),
        (b"layer,neuron\n1,2\n-1,2\n", "row 2: found '-1' as layer"),
        (b"layer,neuron\n1,9999999999\n", "as neuron"),
        (b"layer,neuron\n1,2\n1,2\n", "1 neurons are there twice"),
        (b'layer,neuron\n1,"2\n', "expected a table as parquet or CSV"),
    ],
)
def test_what_cannot_be_classified_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        published.read_table(path)
    assert "\n" not in str(error.value)


def test_a_table_with_nothing_to_judge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("layer,neuron,colour\n1,2,red\n")
    with pytest.raises(UserError, match="has columns for none of the rules"):
        published.main(path, Output(tmp_path / "out.parquet"))


def test_a_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    example().head(0).to_csv(path, index=False)
    published.main(path, Output(tmp_path / "out.parquet"))
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 0


def test_parquet_columns_of_odd_types_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = example().assign(excess_corr=[[1.0]] * 6, vocab_var=pd.Timestamp("2024-01-01"))
    table.to_parquet(path)
    found, _ = published.classify(published.read_table(path))
    assert not found["universal"].any()
    assert found["role"].tolist() == ["prediction", "", "", "", "", "suppression"]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize(
    ("rows", "line"),
    [(["0,5,1,0.9,", "0,6,2,0.1,"], 2), (["0,5,1,0.9", "", "0,6,2,0.1,"], 4), (["", "0,5,1,0.9,"], 3)],
)
def test_a_row_that_is_longer_than_the_header_is_named(
    tmp_path: Path, suffix: str, rows: list[str], line: int
) -> None:
    path = tmp_path / f"t.{suffix}"
    content = "\n".join(["layer,neuron,rank,excess_corr", *rows, ""]).encode()
    path.write_bytes(gzip.compress(content) if suffix == "csv.gz" else content)
    with pytest.raises(UserError, match=f"line {line}: found 5 cells, expected 4 as in the first line; give"):
        published.read_table(path)


@pytest.mark.parametrize("cell", [b"0.9\0", b"\x000.9"])
def test_a_nul_is_named(tmp_path: Path, cell: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(b"layer,neuron,excess_corr\n0,1,0.9\n0,2," + cell + b"\n")
    with pytest.raises(UserError, match="line 3: found a NUL byte, expected text; save"):
        published.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "parquet"), [("b.CSV", False), ("b.parquet.csv", False), ("b.csv.Parquet", True)]
)
def test_the_end_of_the_name_says_what_is_written(tmp_path: Path, name: str, parquet: bool) -> None:
    example().to_parquet(tmp_path / "t.parquet")
    out = Output(tmp_path / f".{name}.part")
    published.main(tmp_path / "t.parquet", out)
    assert (out.read_bytes()[:4] == b"PAR1") == parquet


@pytest.mark.parametrize("name", ["a.csv.gz", "a", "a.part", "csv", ".parquet"])
def test_other_formats_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    out = Output(tmp_path / f".{name}.part")
    with pytest.raises(UserError, match=f"--out: found '{name}', expected a name that ends in .csv or .parq"):
        published.main(tmp_path / "nothing.csv", out)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_count_as_missing(tmp_path: Path) -> None:
    table = example().assign(excess_corr=[np.inf, 0.6, -np.inf, 0.7, 0, 0])
    table.loc[1, "vocab_var"] = -np.inf
    table.to_parquet(tmp_path / "t.parquet")
    for found, _ in (published.classify(t) for t in (table, published.read_table(tmp_path / "t.parquet"))):
        assert found["universal"].tolist() == [False, True, False, True, False, False]
        assert found["entropy_rank[medium]"].isna().all()
    read = published.read_table(tmp_path / "t.parquet")
    assert read["excess_corr"].isna().tolist() == [True, False, True, False, False, False]
    table["layer"] = np.inf
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 1: found 'inf' as layer"):
        published.read_table(tmp_path / "t.parquet")


def test_bytes_are_read_as_texts(tmp_path: Path) -> None:
    table = example().assign(excess_corr=[b"\xff", b"0.6", None, b"0.5", b"", b"1"], model=b"a\xff")
    table.to_parquet(tmp_path / "t.parquet")
    found, _ = published.classify(published.read_table(tmp_path / "t.parquet"))
    assert found["universal"].tolist() == [False, True, False, False, False, True]
    assert set(found["model"]) == {"a\\xff"}
