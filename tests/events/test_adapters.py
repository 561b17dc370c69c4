from __future__ import annotations

import csv

import duckdb
import pytest

from events.films import films, split_names
from events.importing import DataFolderMissing, batches, load
from events.lake import Lake
from events.movielens import clean_title, our_genres
from events.schema import TABLES
from events.sources import FILM_GENRES, SOURCES


def loaded(name, data, tmp_path_factory):
    """The source's name, a connection with its events, and what became of its batches."""
    folder = tmp_path_factory.mktemp(name)
    lake = Lake(folder / "events", folder / "quarantine")
    ingests = load(name, lake, data)
    con = duckdb.connect()
    lake.register(con)
    return name, con, ingests


@pytest.fixture(scope="module")
def kuairand(data, tmp_path_factory):
    return loaded("kuairand", data, tmp_path_factory)


@pytest.fixture(scope="module")
def movielens(data, tmp_path_factory):
    return loaded("movielens", data, tmp_path_factory)


@pytest.fixture(params=["kuairand", "movielens"])
def recorded(request):
    return request.getfixturevalue(request.param)


def one(con, query):
    return con.sql(query).fetchall()[0]


@pytest.mark.data
def test_what_a_recorded_source_lacks_is_null_and_the_rest_is_not(recorded):
    name, con, ingests = recorded
    assert sum(ingest.quarantined for ingest in ingests) == 0
    for table, contract in TABLES.items():
        for column in contract.columns:
            (filled,) = one(con, f"SELECT count({column.name}) FROM {table}")
            assert (filled > 0) == SOURCES[name].has(f"{table}.{column.name}"), f"{table}.{column.name}"


@pytest.mark.data
def test_genres_of_a_source_are_those_it_declares(recorded):
    name, con, _ = recorded
    found = {row[0] for row in con.sql("SELECT DISTINCT unnest(genres) FROM titles").fetchall()}
    declared = set(SOURCES[name].genres)
    assert declared <= found | {"Biography", "History", "Sport"}  # not MovieLens genres
    assert name == "kuairand" or found <= set(FILM_GENRES)


@pytest.mark.data
def test_kuairand_keeps_every_log_row_click_and_watch(kuairand, data):
    _, con, _ = kuairand
    log = f"'{data}/kuairand-pure/log_standard_2022-04-25_2022-05-06.parquet'"
    rows, clicks, plays = one(
        con, f"SELECT count(*), sum(is_click), count(*) FILTER (play_time_ms > 0) FROM {log}"
    )
    (earlier,) = one(
        con, f"SELECT sum(len(watch_seq)) FROM '{data}/kuairand-pure/user_histories_to_2022-04-24.parquet'"
    )
    counted = [one(con, f"SELECT count(*) FROM {table}")[0] for table in ("impressions", "hovers", "plays")]
    assert counted == [rows, clicks, plays + earlier]
    minutes = one(con, f"SELECT sum(play_time_ms) / 60000 FROM {log}")[0]
    assert one(con, "SELECT sum(watch_minutes) FROM plays")[0] == pytest.approx(minutes)


@pytest.mark.data
def test_kuairand_histories_keep_their_order_and_end_at_the_last_moment(kuairand, data):
    _, con, _ = kuairand
    raw = con.sql(
        f"SELECT user_id, watch_seq, last_time_ms FROM '{data}/kuairand-pure/user_histories_to_2022-04-24.parquet' "
        "WHERE user_id % 500 = 0"
    ).fetchall()
    found = {
        user: (titles, last)
        for user, titles, last in con.sql("""
            SELECT user_id, list(title_id ORDER BY event_timestamp), epoch_ms(max(event_timestamp))
            FROM plays WHERE impression_id IS NULL AND user_id % 500 = 0 GROUP BY user_id""").fetchall()
    }
    assert found == {user: (titles, last) for user, titles, last in raw}


@pytest.mark.data
def test_kuairand_completion_is_nine_tenths_of_the_duration(kuairand, data):
    _, con, _ = kuairand
    assert one(con, "SELECT count(*) FROM plays WHERE completed <> (watch_share >= 0.9)") == (0,)
    unknown = "SELECT count(*) FILTER (watch_share IS NULL), count(*) FILTER (completed IS NULL) FROM plays"
    log = f"'{data}/kuairand-pure/log_standard_2022-04-25_2022-05-06.parquet'"
    without = one(con, f"SELECT count(*) FROM {log} WHERE play_time_ms > 0 AND duration_ms = 0")
    assert without[0] > 0
    assert one(con, unknown + " WHERE impression_id IS NOT NULL") == without * 2
    assert one(con, "SELECT max(watch_share) FROM plays") == (1.0,)


@pytest.mark.data
def test_kuairand_ids_are_stable(data):
    first, second = ({table: rows for table, rows, _ in batches("kuairand", data)} for _ in range(2))
    assert all(first[table].equals(second[table]) for table in first)


@pytest.mark.data
def test_movielens_keeps_every_rating(movielens, data):
    _, con, _ = movielens
    with (data / "ml-latest-small" / "ratings.csv").open() as file:
        expected = sorted(
            (int(row["userId"]), int(row["movieId"]), float(row["rating"]), int(row["timestamp"]))
            for row in csv.DictReader(file)
        )
    found = con.sql("SELECT user_id, title_id, rating, epoch(event_timestamp)::BIGINT FROM plays").fetchall()
    assert sorted(found) == expected


@pytest.mark.data
def test_movielens_titles_are_joined_by_imdb_id_and_available_before_they_are_rated(movielens):
    _, con, _ = movielens
    row = one(con, "SELECT name, release_year, genres, directors FROM titles WHERE imdb_id = 'tt0133093'")
    by_imdb = {film.imdb_id: film for film in films()}
    assert row[:3] == ("The Matrix", 1999, ["Action", "Sci-Fi", "Thriller"])
    assert tuple(row[3]) == by_imdb["tt0133093"].directors
    late = (
        "SELECT count(*) FROM plays JOIN titles USING (title_id) WHERE plays.event_timestamp < available_from"
    )
    assert one(con, late) == (0,)


@pytest.mark.parametrize(
    ("raw", "name", "year"),
    [
        ("Toy Story (1995)", "Toy Story", 1995),
        ("Matrix, The (1999)", "The Matrix", 1999),
        ("Beautiful Mind, A (2001) ", "A Beautiful Mind", 2001),
        ("Ciao, Professore! (Io speriamo che me la cavo) (1992)", "Ciao, Professore! (Io speriamo che me la cavo)", 1992),
        ("Postman, The (Postino, Il) (1994)", "The Postman (Il Postino)", 1994),
        ("Avventura, L' (Adventure, The) (1960)", "L'Avventura (The Adventure)", 1960),
        ("Das Experiment (Experiment, The) (2001)", "Das Experiment (The Experiment)", 2001),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("Food, Inc. (2008)", "Food, Inc.", 2008),
        ("Paterson", "Paterson", None),
    ],
)  # fmt: skip
def test_movielens_titles_are_put_in_reading_order(raw, name, year):
    assert clean_title(raw) == (name, year)


def test_movielens_genres_are_respelt():
    assert our_genres("Children|Film-Noir|Crime|IMAX") == ("Family", "Crime")
    assert our_genres("(no genres listed)") == ()


def test_a_suffix_stays_with_its_bearer():
    assert split_names("Robert Downey Jr., Ed Begley, Jr., Brian Cox") == (
        "Robert Downey Jr.",
        "Ed Begley, Jr.",
        "Brian Cox",
    )
    assert split_names("") == split_names(None) == ()


def test_films_are_unique_and_in_our_vocabulary():
    every = films()
    assert len({film.imdb_id for film in every}) == len(every) == 17_470
    assert {genre for film in every for genre in film.genres} == set(FILM_GENRES)
    assert all(film.name and film.release_year >= 1870 for film in every)


@pytest.mark.parametrize("source", ["kuairand", "movielens"])
def test_a_missing_data_folder_is_named_with_the_way_to_set_it(tmp_path, lake, source):
    with pytest.raises(DataFolderMissing, match=rf"{tmp_path}.*MATINEE_DATA"):
        load(source, lake, tmp_path)
    with pytest.raises(DataFolderMissing, match="no data folder was given"):
        load(source, lake)


def test_an_unknown_source_is_named_with_what_was_meant(lake):
    with pytest.raises(LookupError, match="Did you mean 'kuairand'"):
        load("kuairan", lake)


@pytest.mark.data
def test_progress_is_told_after_every_batch(data, lake):
    told = []
    ingests = load("kuairand", lake, data, progress=told.append)
    assert tuple(told) == ingests
    assert [ingest.table for ingest in told] == ["titles", "users", "plays", "impressions", "hovers", "plays"]
