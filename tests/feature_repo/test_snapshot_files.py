from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import small_store as small

from feature_repo.reader import OnlineReader
from feature_repo.snapshot import (
    Contents,
    CorruptSnapshot,
    Described,
    NothingPublished,
    Service,
    Vectors,
    current,
    generations,
    publish,
    verified,
)


def contents(value: float = 1.0, day: int = 0) -> Contents:
    of = Described("user_profile", "user", ("minutes", "plays"), ("aa", "bb"), 7)
    values = np.array([[value, 0.0], [np.nan, np.nan]], dtype=np.float32)
    known = np.array([[True, True], [False, True]])  # the second user's plays are known to be NaN
    vectors = Vectors(of, np.array([3, 8]), values, known)
    service = Service("retrieval_user", ("user_profile",), "for tests")
    as_of = small.MONDAY + day * small.DAY
    return Contents("world", as_of, (vectors,), (), (), (service,), small.catalogue())


def test_equal_contents_have_one_generation_and_other_contents_another(tmp_path):
    first = publish(tmp_path / "a", contents())
    assert publish(tmp_path / "b", contents()).id == first.id
    assert publish(tmp_path / "a", contents()).id == first.id
    assert publish(tmp_path / "a", contents(value=2.0)).id != first.id
    assert first.id.startswith("2026-03-02T000000Z-")


def test_the_manifest_counts_nulls_and_not_nans(tmp_path):
    entry = publish(tmp_path, contents()).manifest["tables"][0]
    assert (entry["rows"], entry["nulls"]) == (2, [1, 0])
    assert (entry["features"], entry["digests"]) == (("minutes", "plays"), ("aa", "bb"))


def test_null_stays_apart_from_nan_and_from_zero_on_disk(tmp_path):
    generation = publish(tmp_path, contents())
    batch = pa.ipc.open_file(str(generation.folder / "user_profile.arrow")).get_batch(0)
    assert batch.column("values").to_pylist()[0] == [1.0, 0.0]
    minutes, plays = batch.column("values").to_pylist()[1]
    assert minutes is None
    assert np.isnan(plays)


def test_only_the_last_three_generations_stay(tmp_path):
    ids = [publish(tmp_path, contents(day=day)).id for day in range(5)]
    assert generations(tmp_path) == tuple(reversed(ids[2:]))
    assert current(tmp_path) == ids[-1]


def test_publishing_an_older_generation_again_keeps_it_from_being_pruned(tmp_path):
    oldest = publish(tmp_path, contents(day=0)).id
    for day in (1, 2):
        publish(tmp_path, contents(day=day))
    publish(tmp_path, contents(day=0))
    publish(tmp_path, contents(day=3))
    assert oldest in generations(tmp_path)


def test_a_root_without_a_publication_says_so(tmp_path):
    with pytest.raises(NothingPublished, match="publish one first"):
        OnlineReader.open(tmp_path)


def cut_short(folder: Path) -> None:
    path = folder / "user_profile.arrow"
    path.write_bytes(path.read_bytes()[:-1])


def flip_one_bit(folder: Path) -> None:
    path = folder / "catalogue.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def lose_a_file(folder: Path) -> None:
    (folder / "user_profile.arrow").unlink()


def rename_a_feature(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("minutes", "seconds"))


def half_a_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:50])


def forget_the_tables(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"generation": folder.name}))


DAMAGE = [cut_short, flip_one_bit, lose_a_file, rename_a_feature, half_a_manifest, forget_the_tables]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_generation_is_refused(tmp_path, damage):
    folder = publish(tmp_path, contents()).folder
    damage(folder)
    with pytest.raises(CorruptSnapshot, match=folder.name):
        verified(folder)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_reader_keeps_the_last_good_generation_when_the_next_is_damaged(tmp_path, damage):
    good = publish(tmp_path, contents())
    reader = OnlineReader.open(tmp_path)
    damage(publish(tmp_path, contents(value=5.0, day=1)).folder)
    with pytest.raises(CorruptSnapshot):
        reader.refresh()
    assert reader.generation == good.id
    assert reader.vector("retrieval_user", 3)[0] == 1.0
    assert isinstance(reader.fault, CorruptSnapshot)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_reader_that_starts_on_a_damaged_generation_falls_back_to_the_one_before(tmp_path, damage):
    good = publish(tmp_path, contents())
    damage(publish(tmp_path, contents(day=1)).folder)
    reader = OnlineReader.open(tmp_path)
    assert reader.generation == good.id
    assert isinstance(reader.fault, CorruptSnapshot)


def test_with_no_whole_generation_left_there_is_nothing_to_open(tmp_path):
    flip_one_bit(publish(tmp_path, contents()).folder)
    with pytest.raises(CorruptSnapshot):
        OnlineReader.open(tmp_path)


def test_publishing_over_a_damaged_generation_repairs_it(tmp_path):
    generation = publish(tmp_path, contents())
    cut_short(generation.folder)
    publish(tmp_path, contents())
    assert OnlineReader.open(tmp_path).fault is None


def test_what_a_crash_left_half_written_is_swept_up_and_never_served(tmp_path):
    good = publish(tmp_path, contents())
    shutil.copytree(good.folder, tmp_path / "snapshots" / ".partial-1")
    assert generations(tmp_path) == (good.id,)
    publish(tmp_path, contents(day=1))
    assert not list((tmp_path / "snapshots").glob(".partial-*"))


def test_a_reader_keeps_its_rows_when_its_generation_is_pruned(tmp_path):
    publish(tmp_path, contents())
    reader = OnlineReader.open(tmp_path)
    for day in range(1, 5):
        publish(tmp_path, contents(value=float(day), day=day))
    assert reader.generation not in generations(tmp_path)
    assert reader.vector("retrieval_user", 3)[0] == 1.0


@pytest.mark.parametrize(("ids", "rows", "why"), [
    pytest.param([8, 3], 2, "ascend", id="out of order"),
    pytest.param([3, 3], 2, "ascend", id="an id twice"),
    pytest.param([3, 8, 9], 2, "ids and features make it", id="more ids than rows"),
])  # fmt: skip
def test_rows_that_could_not_be_found_again_are_not_published(tmp_path, ids, rows, why):
    whole = contents()
    vectors = replace(whole.vectors[0], ids=np.array(ids), values=np.zeros((rows, 2), np.float32))
    vectors = replace(vectors, known=np.ones((rows, 2), bool))
    with pytest.raises(ValueError, match=why):
        publish(tmp_path, replace(whole, vectors=(vectors,)))
    with pytest.raises(NothingPublished):
        current(tmp_path)
