from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta

import numpy as np
import pytest
import small_store as small

from feature_repo.mapped import UnknownTitle
from feature_repo.materialize import materialize
from feature_repo.reader import OnlineReader, UnknownService, WrongEntity


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def offline(home):
    return small.write_offline(home / "offline", small.declarations(), small.MONDAY)


@pytest.fixture(scope="module")
def reader(home, offline) -> OnlineReader:
    materialize(small.declarations(), offline, home / "online", "test", small.catalogue())
    return OnlineReader.open(home / "online")


@pytest.mark.parametrize("user_id", small.USERS)
def test_the_matrix_is_what_the_parquet_files_say_feature_by_feature(reader, offline, user_id):
    titles = np.array([102, 100, 104, 102, 101])  # in any order, one twice
    matrix = reader.matrix("ranking", user_id, titles)
    by_hand = [small.ranking_by_hand(offline, small.declarations(), user_id, int(t)) for t in titles]
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.stack(by_hand))


def test_columns_come_in_the_order_of_the_digests(reader):
    names = list(reader.digests("ranking"))
    declared = small.declarations().service("ranking")
    assert names == [reference for reference, _ in declared.features]
    assert reader.digests("ranking") == declared.digests
    assert reader.matrix("ranking", 10, np.array([100])).shape == (1, len(names))


@pytest.mark.parametrize("user_id", [11, 9, 99])
def test_an_unknown_user_has_null_features_and_is_known_to_be_unknown(reader, user_id):
    matrix = reader.matrix("ranking", user_id, np.array([100, 101]))
    names = list(reader.digests("ranking"))
    of_user = [i for i, name in enumerate(names) if name.startswith(("user_profile", "user_activity"))]
    assert np.isnan(matrix[:, of_user]).all()
    assert not reader.knows_user(user_id)
    assert reader.knows_user(10)


def test_an_unknown_title_is_null_and_its_neighbours_are_not_disturbed(reader):
    alone = reader.matrix("ranking", 10, np.array([100, 101]))
    among = reader.matrix("ranking", 10, np.array([100, 999_999, 101, 1]))
    np.testing.assert_array_equal(among[[0, 2]], alone)
    runtime = list(reader.digests("ranking")).index("title_profile:runtime")
    assert np.isnan(among[[1, 3], runtime]).all()
    assert [reader.knows_title(i) for i in (100, 999_999)] == [True, False]


def test_no_titles_make_an_empty_matrix_of_full_width(reader):
    assert reader.matrix("ranking", 10, np.array([], dtype=np.int64)).shape == (0, 12)


def test_vectors_are_the_rows_of_one_entity(reader, offline):
    found = reader.vectors("retrieval_title", np.array([104, 100]))
    expected = [
        [small.read_offline(offline, "title_profile", f, i) for f in ("runtime", "year")] for i in (104, 100)
    ]
    np.testing.assert_array_equal(found, np.array(expected))
    np.testing.assert_array_equal(reader.vector("retrieval_title", 104), found[0])


def test_a_service_over_two_entities_has_no_vector_of_one(reader):
    with pytest.raises(WrongEntity, match=r"use matrix\(\)"):
        reader.vector("ranking", 10)


def test_a_service_of_images_has_no_matrix_of_titles(reader):
    with pytest.raises(WrongEntity, match=r"use vectors\(\)"):
        reader.matrix("artwork_image", 10, np.array([100]))


def test_an_unknown_service_names_those_there_are(reader):
    with pytest.raises(
        UnknownService, match="There are: retrieval_user, retrieval_title, ranking, artwork_image"
    ):
        reader.vector("rankings", 10)


def test_the_catalogue_tells_titles_apart(reader):
    catalogue = reader.catalogue
    assert catalogue.title_ids.tolist() == list(small.TITLES)
    assert (catalogue.name(103), catalogue.year(103), catalogue.genres(103)) == (
        "Title 103",
        2003,
        ("War", "Drama"),
    )
    assert (catalogue.year(100), catalogue.genres(102)) == (None, ())
    assert catalogue.artworks(101).tolist() == [1002, 1003]
    with pytest.raises(UnknownTitle, match="title 7 is not among the 5 titles"):
        catalogue.name(7)


def test_a_title_is_available_from_its_moment_on(reader):
    moment = small.MONDAY + small.DAY
    assert reader.catalogue.available(moment - timedelta(microseconds=1)).tolist() == [100]
    assert reader.catalogue.available(moment).tolist() == [100, 101]


def test_refresh_takes_up_the_new_generation_and_a_pinned_reader_stays(tmp_path):
    declared = small.declarations()
    for seed, day in enumerate((small.MONDAY, small.MONDAY + small.DAY)):
        offline = small.write_offline(tmp_path / "offline", declared, day, seed)
        materialize(declared, offline, tmp_path / "online", "test", small.catalogue())
        if seed == 0:
            following = OnlineReader.open(tmp_path / "online")
            pinned, before = following.pinned(), following.matrix("ranking", 10, np.array([100, 101]))
    assert following.refresh()
    assert not following.refresh()
    assert following.as_of == small.MONDAY + small.DAY
    assert pinned.as_of == small.MONDAY
    np.testing.assert_array_equal(pinned.matrix("ranking", 10, np.array([100, 101])), before)
    by_hand = small.ranking_by_hand(offline, declared, 10, 100)
    np.testing.assert_array_equal(following.matrix("ranking", 10, np.array([100]))[0], by_hand)


def test_a_matrix_is_never_made_of_two_generations(tmp_path):
    """Every value of generation k is k, so a mixed matrix would hold two numbers."""
    reader, stop, wrong = None, threading.Event(), []
    declared = small.declarations()

    def write(k: int) -> None:
        offline = small.write_constant(tmp_path, declared, small.MONDAY + k * small.DAY, float(k))
        materialize(declared, offline, tmp_path / "online", "test", small.catalogue())

    def read() -> None:
        while not stop.is_set():
            stored = reader.matrix("ranking", 10, np.array([100, 101, 102]))[:, :6]
            if len(np.unique(stored)) != 1:
                wrong.append(stored)
            reader.refresh()

    write(1)
    reader = OnlineReader.open(tmp_path / "online")
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for k in range(2, 5):
        write(k)
    stop.set()
    for thread in threads:
        thread.join()
    reader.refresh()
    assert wrong == []
    assert np.unique(reader.matrix("ranking", 10, np.array([100]))[:, :6]).tolist() == [4.0]


def test_reading_needs_neither_ibis_nor_duckdb_nor_feast():
    """They would add a second to the start of every serving process."""
    code = (
        "import sys, feature_repo.reader; print([m for m in ('ibis', 'duckdb', 'feast') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
