import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from models.arrays import decode_arrays, encode_arrays
from models.artifact import Artifact, ArtifactError, digest, encode, load, save

MODEL = Artifact(
    kind="toy",
    arrays={
        "weights": {
            "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
            "ids": np.array([3, 1], dtype=np.int64),
            "empty": np.empty((0, 4), dtype=np.float32),
        }
    },
    documents={"config": {"seed": 1, "name": "é"}, "metrics": {"auc": 0.1 + 0.2}},
)


def test_an_artifact_comes_back_as_it_was_saved(tmp_path):
    identity = save(MODEL, tmp_path / "m")
    found = load(tmp_path / "m", "toy")
    assert digest(tmp_path / "m") == identity
    assert found.documents == MODEL.documents
    for name, array in MODEL.arrays["weights"].items():
        assert found.arrays["weights"][name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays["weights"][name], array)


def test_equal_artifacts_are_equal_bytes_whatever_the_order_of_their_parts():
    turned = replace(
        MODEL,
        arrays={"weights": dict(reversed(MODEL.arrays["weights"].items()))},
        documents={"metrics": MODEL.documents["metrics"], "config": {"name": "é", "seed": 1}},
    )
    assert encode(turned) == encode(MODEL)


def test_a_transposed_array_is_saved_as_it_reads_and_not_as_it_lies_in_memory(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save(Artifact("toy", {"weights": {"m": matrix}}, {}), tmp_path / "m")
    np.testing.assert_array_equal(load(tmp_path / "m", "toy").arrays["weights"]["m"], matrix)


def test_the_digest_is_sha256_over_names_and_sha256_of_contents(tmp_path):
    identity = save(MODEL, tmp_path / "m")
    lines = "".join(
        f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in sorted((tmp_path / "m").iterdir())
    )
    assert identity == hashlib.sha256(lines.encode()).hexdigest()


def test_any_changed_byte_is_refused_and_the_part_is_named(tmp_path):
    save(MODEL, tmp_path / "m")
    for name in ("weights.safetensors", "config.json", "metrics.json"):
        path = tmp_path / "m" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(ArtifactError, match=name):
            load(tmp_path / "m", "toy")
        path.write_bytes(whole)
    load(tmp_path / "m", "toy")


def test_a_missing_part_is_refused(tmp_path):
    save(MODEL, tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"lacks config\.json"):
        load(tmp_path / "m", "toy")


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path):
    save(MODEL, tmp_path / "m")
    (tmp_path / "m" / "extra.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ArtifactError, match=r"extra\.pkl"):
        load(tmp_path / "m", "toy")


def test_a_manifest_cannot_name_a_path_outside_the_folder(tmp_path):
    save(MODEL, tmp_path / "m")
    (tmp_path / "secret.json").write_text("{}")
    manifest = tmp_path / "m" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"config.json"', '"../secret.json"'))
    with pytest.raises(ArtifactError):
        load(tmp_path / "m", "toy")


def test_a_model_of_another_kind_is_refused(tmp_path):
    save(MODEL, tmp_path / "m")
    with pytest.raises(ArtifactError, match="holds a toy, not a ranker"):
        load(tmp_path / "m", "ranker")


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir()], ids=["nothing", "empty folder"]
)
def test_a_folder_without_a_manifest_is_no_model(tmp_path, make):
    make(tmp_path / "m")
    with pytest.raises(ArtifactError, match="no model"):
        load(tmp_path / "m", "toy")


def test_saving_again_is_harmless_and_saving_something_else_over_it_refused(tmp_path):
    identity = save(MODEL, tmp_path / "m")
    assert save(MODEL, tmp_path / "m") == identity
    with pytest.raises(FileExistsError, match="never overwritten"):
        save(replace(MODEL, kind="other"), tmp_path / "m")
    assert digest(tmp_path / "m") == identity


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save(replace(MODEL, documents={"metrics": {"auc": float("nan")}}), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["../up", "Weights", "a.b", "", "manifest"])
def test_a_part_needs_a_plain_name(tmp_path, part):
    with pytest.raises(ValueError, match="cannot name a part"):
        save(Artifact("toy", {}, {part: {}}), tmp_path / "m")


def test_what_is_written_is_read_for_every_type_and_shape(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(), (1,), (0,), (3, 0), (2, 3, 5)]
    types = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
    arrays = {
        f"{kind}_{place}": (rng.random(shape) * 100).astype(kind)
        for kind in types
        for place, shape in enumerate(shapes)
    }
    save(Artifact("model", {"weights": arrays}, {}), tmp_path / "a")
    found = load(tmp_path / "a", "model").arrays["weights"]
    content = (tmp_path / "a" / "weights.safetensors").read_bytes()
    theirs = safetensors.numpy.load(content)  # the library's own reader, which knows of no fillers
    assert found.keys() == arrays.keys() == {name for name in theirs if not name.startswith("filler!")}
    for name, array in arrays.items():
        assert found[name].dtype == theirs[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], theirs[name])
        assert found[name].ctypes.data % 64 == 0


def test_files_that_safetensors_itself_wrote_are_read_too():
    arrays = {"a": np.arange(3, dtype=np.float32), "b": np.arange(5)}
    found = decode_arrays(memoryview(safetensors.numpy.save(arrays, {"made": "elsewhere"})))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("name", ["filler!12", "__metadata__"])
def test_an_array_cannot_have_a_name_that_the_format_uses(name):
    with pytest.raises(ValueError, match="uses that name itself"):
        encode_arrays({name: np.zeros(1)})


def test_an_array_of_a_type_without_a_name_in_the_format_is_refused_by_name():
    with pytest.raises(ValueError, match=r"moments: datetime64\[s\] cannot be stored; .*<f4"):
        encode_arrays({"moments": np.zeros(1, dtype="datetime64[s]")})


def test_arrays_are_mapped_and_what_is_written_to_them_stays_in_the_process(tmp_path):
    weights = np.arange(300_000, dtype=np.float32)
    save(Artifact("model", {"weights": {"w": weights}}, {}), tmp_path / "a")
    found = load(tmp_path / "a", "model").arrays["weights"]["w"]
    assert _memory_of(tmp_path / "a" / "weights.safetensors")["Anonymous"] == 0
    found[:] = 0
    assert _memory_of(tmp_path / "a" / "weights.safetensors")["Anonymous"] >= weights.nbytes // 1024 - 8
    np.testing.assert_array_equal(load(tmp_path / "a", "model").arrays["weights"]["w"], weights)


def test_an_artifact_that_is_replaced_or_deleted_changes_nothing_for_who_has_loaded_it(tmp_path):
    weights = np.arange(300_000, dtype=np.float32)
    save(Artifact("model", {"weights": {"w": weights}}, {}), tmp_path / "a")
    found = load(tmp_path / "a", "model").arrays["weights"]["w"]
    shutil.rmtree(tmp_path / "a")
    save(Artifact("model", {"weights": {"w": -weights}}, {}), tmp_path / "a")
    np.testing.assert_array_equal(found, weights)


def _memory_of(path):
    """kB of a mapped file in this process; `Anonymous` are no longer the file's (Linux, proc(5))."""
    blocks = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    found = [block for block in blocks if block.splitlines()[0].endswith(str(path))]
    kinds = [dict(re.findall(r"(\w+):\s+(\d+) kB", block)) for block in found]
    assert kinds
    return {name: sum(int(kind[name]) for kind in kinds) for name in ("Rss", "Anonymous")}
