"""Contracts as values: what cannot be declared, and the digest that names what can."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.schema import TABLES
from validations.checks import OfType, checks
from validations.contracts import contract_digest, contract_from_dict, contract_to_dict
from validations.expectations import (
    Between,
    ColumnContract,
    DriftLimits,
    DType,
    Limits,
    NullShare,
    OneOf,
    Quarantine,
    TableContract,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
betweens = st.one_of(
    st.tuples(finite, finite).map(lambda pair: Between(min(pair), max(pair))),
    finite.map(lambda low: Between(low=low)),
    finite.map(lambda high: Between(high=high)),
)
columns = st.one_of(
    st.tuples(st.just(DType.FLOAT), st.lists(betweens, max_size=2)),
    st.tuples(st.sampled_from(DType), st.lists(st.floats(0, 1).map(NullShare), max_size=2)),
    st.tuples(st.just(DType.VARCHAR), st.lists(st.lists(st.text(), min_size=1).map(OneOf), max_size=2)),
)


steps = st.lists(st.none() | st.floats(0, 1), min_size=3, max_size=3).map(
    lambda drawn: Limits(*(sorted(x for x in drawn if x is not None) + [None] * 3)[:3])
)
drift_limits = st.builds(
    DriftLimits, psi=steps, ks=steps, null_share=steps, chance=st.floats(0.001, 0.5), bins=st.integers(2, 50)
)
quarantines = st.floats(0.001, 0.999).map(Quarantine)


@st.composite
def contracts(draw):
    drawn = draw(st.lists(columns, min_size=1, max_size=4))
    table = tuple(
        ColumnContract(f"c{i}", dtype, tuple(rules), drift=draw(st.none() | drift_limits))
        for i, (dtype, rules) in enumerate(drawn)
    )
    declared = {"drift": draw(drift_limits), "quarantine": draw(st.none() | quarantines)}
    return TableContract("drawn", ("c0",), table, row_count=draw(betweens), **declared)


@given(contracts())
def test_a_contract_survives_json(contract):
    assert contract_from_dict(json.loads(json.dumps(contract_to_dict(contract)))) == contract


@pytest.mark.parametrize("contract", TABLES.values(), ids=list(TABLES))
def test_every_event_table_has_a_contract_that_survives_json(contract):
    assert contract_from_dict(json.loads(json.dumps(contract_to_dict(contract)))) == contract


def test_open_sides_and_infinite_bounds_survive_json():
    contract = one_column(Between(low=-math.inf), Between(high=math.inf), Between(low=0))
    assert contract_from_dict(json.loads(json.dumps(contract_to_dict(contract), allow_nan=False))) == contract


def test_the_digest_does_not_depend_on_how_the_same_expectation_was_written():
    written = one_column(Between(0, 1), NullShare(0), dtype=DType.DOUBLE)
    rewritten = one_column(Between(-0.0, 1.0), NullShare(0.0), dtype=DType.DOUBLE)
    assert contract_digest(written) == contract_digest(rewritten)


def test_the_digest_is_the_same_in_every_process():
    program = (
        "from validations.contracts import contract_digest\n"
        "from validations.expectations import *\n"
        "allowed = OneOf({'film', 'video', 'series', 'short'})\n"
        "column = ColumnContract('kind', DType.VARCHAR, (allowed,))\n"
        "print(contract_digest(TableContract('t', ('kind',), (column,))))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def one_column(*rules, dtype=DType.FLOAT, key=True, **table):
    column = ColumnContract("x", dtype, rules)
    return TableContract("one", ("x",) if key else (), (column,), **table)


@pytest.mark.parametrize(
    "other",
    [
        one_column(Between(0, 2)),
        one_column(Between(0)),
        one_column(Between(0, 1), NullShare(1)),
        one_column(Between(0, 1), dtype=DType.DOUBLE),
        one_column(Between(0, 1), key=False),
        one_column(Between(0, 1), row_count=Between(low=2)),
        one_column(Between(0, 1), digest="another computation"),
        one_column(Between(0, 1), drift=DriftLimits(ks=Limits(error=0.1))),
        one_column(Between(0, 1), quarantine=Quarantine(0.01)),
    ],
)
def test_the_digest_tells_different_contracts_apart(other):
    assert contract_digest(other) != contract_digest(one_column(Between(0, 1)))


@pytest.mark.parametrize(
    ("dtype", "rule"),
    [
        (DType.VARCHAR, Between(0, 1)),
        (DType.BOOLEAN, Between(0, 1)),
        (DType.BIGINTS, Between(0, 1)),
        (DType.TIMESTAMP, Between(0, 1)),
        (DType.BIGINT, OneOf(["1"])),
        (DType.VARCHAR, OneOf([1])),
        (DType.VARCHAR, OneOf(["1", 2])),
        (DType.VARCHARS, OneOf(["drama"])),
    ],
)
def test_an_expectation_that_says_nothing_about_a_type_cannot_be_declared(dtype, rule):
    with pytest.raises(ValueError, match=r"column 'x'.*says nothing about"):
        ColumnContract("x", dtype, (rule,))


@pytest.mark.parametrize(
    "bounds", [(math.nan, 1), (0, math.nan), (math.inf, None), (None, -math.inf), (2, 1)]
)
def test_a_range_that_nothing_could_meet_cannot_be_declared(bounds):
    with pytest.raises(ValueError, match="Between"):
        Between(*bounds)


def test_only_timestamps_can_be_from_the_future():
    with pytest.raises(ValueError, match="not_after names 'x', which is FLOAT"):
        one_column(not_after=("x",))


def test_every_column_is_held_against_its_type():
    contract = TABLES["plays"]
    typed = {
        check.column
        for check in checks(contract, datetime(2026, 1, 1, tzinfo=UTC))
        if isinstance(check.rule, OfType)
    }
    assert typed == {column.name for column in contract.columns}


@pytest.mark.parametrize("share", [0, 1, -0.1, 2, math.nan])
def test_a_quarantine_of_nothing_or_of_everything_cannot_be_declared(share):
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        Quarantine(share)
