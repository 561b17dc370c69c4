"""MLflow's words for ours: pure functions, no server."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import InvalidRecord
from registry.http.mlflow_words import canonical_stage, milliseconds, model_order, our_order, our_query
from registry.query import parse_query


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("version_number > 3", "version > 3"),
        ("attribute.version_number > 3", "version > 3"),
        ("run_id IN ('a', 'b')", "training_set IN ('a', 'b')"),
        ("source_path LIKE 's3://%'", "source LIKE 's3://%'"),
        ("creation_timestamp < 1700000000000", "created_at < 1700000000000"),
        ("tags.run_id = 'x'", "tags.run_id = 'x'"),
        ("tags.`run_id` = 'x'", "tags.`run_id` = 'x'"),
        ('tags."run_id" = "run_id"', 'tags."run_id" = "run_id"'),
        ("name = 'it''s run_id'", "name = 'it''s run_id'"),
        ("params.version_number = '2'", "params.version_number = '2'"),
        ("", ""),
    ],
)
def test_a_field_is_renamed_and_a_key_or_a_value_is_not(theirs, ours):
    assert our_query(theirs) == ours
    parse_query(ours)


@given(
    st.text(max_size=30).filter(
        lambda text: "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
    )
)
def test_no_value_is_ever_rewritten(text):
    quoted = "'" + text.replace("'", "''") + "'"
    assert (
        our_query(f"name = {quoted} and run_id = {quoted}") == f"name = {quoted} and training_set = {quoted}"
    )


def test_what_is_neither_theirs_nor_ours_is_left_for_the_parser_to_refuse():
    assert our_query("colour = 'red'") == "colour = 'red'"
    assert our_order("version_number DESC") == "version DESC"


@given(st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_milliseconds_are_whole_and_never_later_than_the_moment(at):
    back = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds(at))
    assert timedelta(0) <= at - back < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ([], ("name", False)),
        (["name desc"], ("name", True)),
        (["last_updated_timestamp DESC", "name ASC"], ("last_updated_timestamp", True)),
        (["attribute.creation_timestamp"], ("creation_timestamp", False)),
        (["timestamp"], ("last_updated_timestamp", False)),
    ],
)
def test_an_order_of_models(theirs, ours):
    assert model_order(theirs) == ours


@pytest.mark.parametrize(
    "order", [["size"], ["name sideways"], ["name; DROP TABLE"], ["creation_timestamp", "name DESC"]]
)
def test_an_order_that_models_do_not_have_is_refused(order):
    with pytest.raises(InvalidRecord, match="models are sorted by"):
        model_order(order)


def test_a_stage_may_be_written_in_any_case():
    assert [canonical_stage(stage) for stage in ("production", "NONE", "Archived")] == [
        "Production",
        "None",
        "Archived",
    ]
    with pytest.raises(InvalidRecord, match="Staging"):
        canonical_stage("Stage")
