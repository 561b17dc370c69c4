"""The artifact store: what it takes, and that what comes out is what went in."""

import contextlib
import hashlib
import io
import json
import pickle
import struct
import uuid
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from registry import ArtifactCorrupt, ArtifactRefused, ArtifactStore, NotRecorded
from registry.media import check_content, check_path

TABLE = pa.table({"title_id": [1, 2, 3]})


def arrow_file() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def parquet_file() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def torch_like_zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}))
    return sink.getvalue()


def npy_file() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return sink.getvalue()


WEIGHTS = safetensors.numpy.save({"w": np.arange(6, dtype=np.float32), "b": np.zeros(2)}, {"format": "np"})
TAKEN = {
    "weights.safetensors": WEIGHTS,
    "empty.safetensors": safetensors.numpy.save({}),
    "config.json": b'{"a": [1, 2.5, null]}',
    "index.arrow": arrow_file(),
    "scores.parquet": parquet_file(),
    "report.html": b"<h1>Offline evaluation</h1>",
    "README.md": "# Größe".encode(),
    "plot.svg": b"<svg/>",
    "config.YAML": b"a: 1",
}


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    memory = f"memory://matinee-{uuid.uuid4().hex}"
    return ArtifactStore(memory if request.param == "memory" else str(tmp_path / "store"))


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_put_comes_back_under_its_sha256(store, name, tmp_path):
    artifact = store.put(TAKEN[name], name)
    assert artifact.sha256 == hashlib.sha256(TAKEN[name]).hexdigest()
    assert artifact.size == len(TAKEN[name])
    assert store.read(artifact.sha256) == TAKEN[name]
    assert store.materialize(artifact.sha256, tmp_path / "deep" / "er" / name).read_bytes() == TAKEN[name]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_under_any_name(store, protocol):
    for name in ("model.pkl", *TAKEN):
        with pytest.raises(ArtifactRefused):
            store.put(pickle.dumps({"weights": [1.0] * 50}, protocol), name)


@pytest.mark.parametrize("content", [torch_like_zip(), npy_file()], ids=["torch.save", "npy"])
@pytest.mark.parametrize("name", ["model.pt", "weights.safetensors", "report.md"])
def test_files_that_carry_pickles_are_refused(store, content, name):
    with pytest.raises(ArtifactRefused, match="safetensors"):
        store.put(content, name)


@pytest.mark.parametrize(
    "name", ["weights.bin", "weights", "index.faiss", "model.joblib", "script.py", ".json"]
)
def test_other_kinds_of_files_are_refused_with_the_list_of_what_is_taken(store, name):
    with pytest.raises(ArtifactRefused, match=r"\.safetensors, \.json"):
        store.put(b"{}", name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", b""),
        ("w.safetensors", WEIGHTS[:-1]),
        ("w.safetensors", WEIGHTS + b"\0"),
        ("w.safetensors", b"\xff" * 16),
        ("w.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("c.json", b'{"a": '),
        ("c.json", b"\xff\xfe"),
        ("i.arrow", arrow_file()[:-1]),
        ("i.arrow", parquet_file()),
        ("s.parquet", arrow_file()),
        ("r.html", b"<p>\0</p>"),
        ("r.md", b"\xff"),
    ],
)
def test_bytes_that_are_not_what_the_name_says_are_refused(name, content):
    with pytest.raises(ArtifactRefused, match="is not"):
        check_content(name, content)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_taken_or_refused_and_nothing_else_happens(content):
    for name in TAKEN:
        with contextlib.suppress(ArtifactRefused):
            check_content(name, content)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(0, 20), max_size=4))
def test_every_safetensors_file_the_library_writes_is_taken(sizes):
    tensors = {name: np.ones(size, dtype=np.float32) for name, size in sizes.items()}
    assert check_content("w.safetensors", safetensors.numpy.save(tensors)) == "application/vnd.safetensors"


@pytest.mark.parametrize(
    "path",
    ["../a.json", "a/../../b.json", "/etc/a.json", "a//b.json", "./a.json", "", "a\\b.json", "c:/a.json", "a/ /b.json",
     "a\n.json", "a\0.json", "x" * 251],
)  # fmt: skip
def test_a_path_that_leaves_the_version_is_refused(path, ledger, draft):
    with pytest.raises(ArtifactRefused, match="cannot be a file of a version"):
        check_path(path)
    with pytest.raises(ArtifactRefused):
        ledger.register(draft(files={path: b"{}"}))


def stored_at(folder, sha256):
    return folder / "store" / "sha256" / sha256[:2] / sha256


@pytest.fixture
def one(tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    sha256 = store.put(TAKEN["config.json"], "config.json").sha256
    return store, sha256, stored_at(tmp_path, sha256)


@pytest.mark.parametrize("byte", [0, 7, len(TAKEN["config.json"]) - 1])
def test_a_flipped_bit_is_noticed_before_anything_is_read(one, byte, tmp_path):
    store, sha256, place = one
    data = bytearray(place.read_bytes())
    data[byte] ^= 1
    place.write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=sha256):
        store.read(sha256)
    with pytest.raises(ArtifactCorrupt):
        store.materialize(sha256, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_swapped_file_is_noticed(one, tmp_path):
    store, sha256, place = one
    other = store.put(b'{"evil": 1}', "other.json")
    place.write_bytes(stored_at(tmp_path, other.sha256).read_bytes())
    with pytest.raises(ArtifactCorrupt, match=other.sha256):
        store.read(sha256)


def test_a_link_in_place_of_a_file_is_refused_even_to_the_right_bytes(one, tmp_path):
    store, sha256, place = one
    (tmp_path / "same.json").write_bytes(place.read_bytes())
    place.unlink()
    place.symlink_to(tmp_path / "same.json")
    with pytest.raises(ArtifactCorrupt, match="symlink"):
        store.read(sha256)


def test_putting_the_bytes_again_repairs_a_bad_copy(one):
    store, sha256, place = one
    place.write_bytes(b"rot")
    assert store.put(TAKEN["config.json"], "config.json").sha256 == sha256
    assert json.loads(store.read(sha256)) == {"a": [1, 2.5, None]}


def test_a_missing_file_is_said_to_be_missing(one):
    store, sha256, place = one
    place.unlink()
    with pytest.raises(NotRecorded, match=sha256):
        store.read(sha256)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_digest_is_ever_looked_up(one, digest):
    with pytest.raises(ArtifactRefused, match="SHA-256"):
        one[0].read(digest)


def test_links_and_folders_are_not_taken_in(one, tmp_path):
    (tmp_path / "real.json").write_bytes(b"{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    (tmp_path / "folder.json").mkdir()
    for name, problem in [
        ("link.json", "symlink"),
        ("folder.json", "not a file"),
        ("none.json", "not a file"),
    ]:
        with pytest.raises(ArtifactRefused, match=problem):
            one[0].put(tmp_path / name, name)


def test_nothing_half_written_is_left_in_the_store(one, tmp_path):
    store, _, _ = one
    for n in range(5):
        store.put(b"[%d]" % n, "a.json")
    assert list((tmp_path / "store").rglob("*.partial")) == []
    assert len([path for path in (tmp_path / "store").rglob("*") if path.is_file()]) == 6


def test_a_version_whose_artifact_rotted_is_not_fetched(ledger, draft, tmp_path):
    version = ledger.register(draft())
    sha256 = version.files[0].sha256
    place = tmp_path / "artifacts" / "sha256" / sha256[:2] / sha256
    place.write_bytes(b"{}")
    with pytest.raises(ArtifactCorrupt, match=sha256):
        ledger.fetch("ranker/1", tmp_path / "out")
    assert not (tmp_path / "out" / version.files[0].path).exists()


@pytest.mark.parametrize("length", [640, 896, 1152, 1408], ids=lambda n: f"header of {n} bytes")
def test_safetensors_whose_header_length_is_spelt_like_a_pickle_are_taken(store, length):
    """Lengths of 128 + 256 p begin with the bytes 0x80 p, as a pickle of protocol p does."""
    data = np.arange(3, dtype="<f4").tobytes()
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode().ljust(length)
    content = struct.pack("<Q", length) + header + data
    assert content[:1] == pickle.PROTO
    assert store.put(content, "weights.safetensors").media_type == "application/vnd.safetensors"
