from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.sources import SOURCES
from feature_repo.arithmetic import (
    Binary,
    Constant,
    Expression,
    OrElse,
    Ref,
    Unary,
    evaluate,
    from_data,
    to_data,
    to_sql,
)
from feature_repo.declarations import Derived
from feature_repo.families import declare
from feature_repo.pairing import compile_pairing

USER_COLUMNS = [Ref("user", f"u{i}") for i in range(3)]
TITLE_COLUMNS = [Ref("title", f"t{i}") for i in range(3)]
TITLES = 4

number = st.one_of(st.just(0.0), st.floats(-1e4, 1e4, width=32), st.floats(2.0**-30, 2.0**-10, width=32))
stored = st.one_of(st.none(), st.just(-0.0), number)
# A constant is never -0.0: DuckDB takes two calls that differ in that alone for the same one.
constant = st.one_of(number, st.floats(-1, 1)).map(lambda value: value + 0.0)
leaf = st.one_of(st.sampled_from(USER_COLUMNS + TITLE_COLUMNS), st.builds(Constant, constant))
expression = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.builds(Binary, st.sampled_from("+-*/"), inner, inner),
        st.builds(Unary, st.just("abs"), inner),
        st.builds(OrElse, inner, constant),
    ),
    max_leaves=6,
)


def by_pairing(expressions: list[Expression], user: dict, titles: dict) -> np.ndarray:
    pairing = compile_pairing(expressions, ["user"])
    one = np.array([user[ref] for ref in pairing.users], dtype=np.float32)
    many = np.array([titles[ref] for ref in pairing.titles], dtype=np.float32).T.reshape(TITLES, -1)
    out = np.empty((TITLES, len(expressions)), dtype=np.float32)
    pairing.run(one, many, out)
    return out


def one_by_one(expressions: list[Expression], user: dict, titles: dict) -> np.ndarray:
    def read(ref: Ref) -> np.ndarray:
        values = [user[ref]] if ref.table == "user" else titles[ref]
        return np.array(values, dtype=np.float32).astype(np.float64)

    with np.errstate(all="ignore"):
        columns = [np.broadcast_to(evaluate(e, read), (TITLES,)).astype(np.float32) for e in expressions]
    return np.stack(columns, axis=1)


def in_duckdb(
    connection: duckdb.DuckDBPyConnection, expressions: list[Expression], user: dict, titles: dict
) -> np.ndarray:
    columns = {ref.feature: pa.array([user[ref]] * TITLES, pa.float32()) for ref in USER_COLUMNS}
    columns |= {ref.feature: pa.array(titles[ref], pa.float32()) for ref in TITLE_COLUMNS}
    select = ", ".join(
        f"CAST({to_sql(e, lambda ref: ref.feature)} AS FLOAT) AS e{i}" for i, e in enumerate(expressions)
    )
    stored_rows = pa.table(columns)
    found = (
        connection.from_arrow(stored_rows).query("stored", f"SELECT {select} FROM stored").to_arrow_table()
    )
    return np.stack([found[name].to_numpy() for name in found.column_names], axis=1)


def values(draw_one: list, draw_many: list) -> tuple[dict, dict]:
    user = dict(zip(USER_COLUMNS, draw_one, strict=True))
    titles = dict(zip(TITLE_COLUMNS, draw_many, strict=True))
    return user, titles


def assert_same_bits(left: np.ndarray, right: np.ndarray) -> None:
    """Equal to the last bit, a null (NaN) being equal to any other."""
    np.testing.assert_array_equal(np.isnan(left), np.isnan(right))
    known = ~np.isnan(left)
    np.testing.assert_array_equal(left[known].view(np.uint32), right[known].view(np.uint32))


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as opened:
        yield opened


@settings(max_examples=100, deadline=None)
@given(
    st.lists(expression, min_size=1, max_size=8),
    st.lists(stored, min_size=3, max_size=3),
    st.lists(st.lists(stored, min_size=TITLES, max_size=TITLES), min_size=3, max_size=3),
)
def test_together_one_by_one_and_in_sql_all_give_the_same_bits(connection, expressions, one, many):
    user, titles = values(one, many)
    expected = one_by_one(expressions, user, titles)
    if np.isinf(expected).any():
        return  # DuckDB refuses to round an overflow to FLOAT; stored features are bounded by their contracts
    assert_same_bits(by_pairing(expressions, user, titles), expected)
    assert_same_bits(in_duckdb(connection, expressions, user, titles), expected)


@settings(max_examples=100, deadline=None)
@given(expression)
def test_an_expression_survives_being_written_as_data(tree):
    assert from_data(to_data(tree)) == tree


@pytest.mark.parametrize("data", [["ref", "user"], ["**", ["constant", 1.0], ["constant", 2.0]], [], "ref"])
def test_data_that_is_no_expression_is_refused(data):
    with pytest.raises(ValueError, match="no expression"):
        from_data(data)


def test_a_part_that_expressions_share_is_computed_once():
    product = USER_COLUMNS[0] * TITLE_COLUMNS[0]
    together = compile_pairing([product, product / TITLE_COLUMNS[1], abs(product)], ["user"])
    alone = sum(
        compile_pairing([e], ["user"]).sizes[1] for e in (product, product / TITLE_COLUMNS[1], abs(product))
    )
    assert together.sizes[1] == 2 + 3  # two title columns; product, quotient, magnitude
    assert together.sizes[1] < alone


@pytest.mark.parametrize("operator", "-/")
def test_operands_that_change_places_make_another_feature(operator):
    left, right = USER_COLUMNS[0], TITLE_COLUMNS[0]
    user, titles = values([6.0, 0.0, 0.0], [[2.0] * TITLES, [0.0] * TITLES, [0.0] * TITLES])
    both_ways = [Binary(operator, left, right), Binary(operator, right, left)]
    expected = [[4.0, -4.0]] if operator == "-" else [[3.0, np.float32(1 / 3)]]
    np.testing.assert_array_equal(
        by_pairing(both_ways, user, titles), np.array(expected * TITLES, dtype=np.float32)
    )


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_declared_pairs_give_the_same_bits_together_and_one_by_one(source):
    declared = declare(SOURCES[source])
    features = declared.table("user_title").features
    expressions = [f.computation.expression for f in features if isinstance(f.computation, Derived)]
    users = [t.name for t in declared.tables if t.entity.name == "user"]
    pairing = compile_pairing(expressions, users)
    rng = np.random.default_rng(7)

    def random(*shape: int) -> np.ndarray:
        values = rng.normal(scale=30, size=shape).astype(np.float32)
        values[rng.random(shape) < 0.2] = np.nan
        values[rng.random(shape) < 0.2] = 0
        return values

    user, title = random(len(pairing.users)), random(50, len(pairing.titles))
    out = np.empty((50, pairing.width), dtype=np.float32)
    pairing.run(user, title, out)
    read = {ref: user[i : i + 1].astype(np.float64) for i, ref in enumerate(pairing.users)}
    read |= {ref: title[:, i].astype(np.float64) for i, ref in enumerate(pairing.titles)}
    with np.errstate(all="ignore"):
        expected = [
            np.broadcast_to(evaluate(e, read.__getitem__), (50,)).astype(np.float32) for e in expressions
        ]
    assert_same_bits(out, np.stack(expected, axis=1))
