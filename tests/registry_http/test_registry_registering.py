"""Registering over our own API: files first, then everything else, as `Registry.register` would."""

import hashlib

import pytest

from registry import Input, Metric, Output, Signature

CONFIG = b'{"layers": 2}'


@pytest.fixture
def sent(engineer, name):
    """Two files sent ahead to a folder of the model's name."""
    for path, content in (("tower/config.json", CONFIG), ("report.md", b"# Report")):
        answer = engineer.put(f"/v1/uploads/{name}/{path}", content=content)
        assert answer.json() == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return name


def test_a_version_registered_over_http_is_the_one_that_registering_here_makes(
    engineer, backend, draft, lineage, name, sent
):
    service, made = lineage(backend.registry, name)
    behind = backend.registry.register(draft(f"{name}-behind")).ref
    answer = engineer.post(
        f"/v1/models/{name}/versions",
        json={
            "upload": sent,
            "metrics": [{"key": "recall", "value": 0.4, "dataset": "world", "split": "test", "k": 200}],
            "params": {"rate": 0.001, "epochs": 3, "mixed": True, "loss": "softmax"},
            "tags": {"team": "home"},
            "config": {"layers": [2, 3]},
            "seed": 7,
            "signature": {
                "inputs": [{"name": "user", "service": service}],
                "outputs": [{"name": "play", "shape": [None], "meaning": "probability"}],
                "framework": {"torch": "2.13.0"},
            },
            "training_set": made,
            "upstream": {"retriever": behind},
            "source": "world",
            "description": "Ranks.",
        },
    )
    assert answer.status_code == 201, answer.text
    version = backend.registry.get(f"{name}/1")
    assert answer.json()["digest"] == version.digest
    assert version.signature == Signature(
        (Input("user", service),), (Output("play", meaning="probability"),), {"torch": "2.13.0"}
    )
    assert version.metrics == (Metric("recall", 0.4, "world", "test", 200),)
    assert version.params == {"rate": "0.001", "epochs": "3", "mixed": "true", "loss": "softmax"}
    assert (version.tags, version.config, version.seed) == ({"team": "home"}, {"layers": [2, 3]}, 7)
    assert (version.training_set, version.upstream) == (made, {"retriever": behind})
    assert (version.source, version.created_by) == ("world", "engineer")
    assert [file.path for file in version.files] == ["report.md", "tower/config.json"]
    assert backend.registry.read(version.ref, "tower/config.json") == CONFIG
    assert engineer.get(f"/v1/models/{name}/versions/1/inputs").json() == {
        "user": [{"view": "user_activity", "name": f"plays_{name}", "digest": f"f{name}", "dtype": "FLOAT"}]
    }
    (entry,) = [
        e for e in backend.audit.page(limit=10_000) if e.action == "create version" and name in e.target
    ]
    assert (entry.target, entry.status) == (f"{name}/1 from upload {sent}", 201)


def test_the_same_again_is_the_version_there_is(engineer, name, sent):
    first, again = (
        engineer.post(f"/v1/models/{name}/versions", json={"upload": sent}).json() for _ in range(2)
    )
    assert again == first


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"upload": "never-sent"}, 422, None),
        ({"training_set": "nowhere"}, 404, None),
        ({"upstream": {"r": "nowhere/1"}}, 404, None),
        ({"upstream": {"r": "no reference@"}}, 422, None),
        ({"signature": {"inputs": [{"name": "x", "service": "nowhere"}]}}, 404, None),
        ({"signature": {"inputs": [{"name": "x", "service": "a"}] * 2}}, 422, None),
        ({"signature": {"outputs": [{"name": "x", "shape": [0]}]}}, 422, "body.signature.outputs.0.shape.0"),
        ({"metrics": [{"key": "auc"}]}, 422, "body.metrics.0.value"),
        ({"seed": 2**63}, 422, "body.seed"),
        ({"files": {"x": "/etc/passwd"}}, 422, "body.files"),
    ],
)
def test_what_cannot_be_registered_is_refused_and_nothing_is(engineer, name, sent, change, status, field):
    answer = engineer.post(f"/v1/models/{name}/versions", json={"upload": sent, **change})
    assert answer.status_code == status, answer.text
    if field:
        assert field in {problem["field"] for problem in answer.json()["problems"]}
    assert engineer.get(f"/v1/models/{name}").status_code == 404


def test_a_file_that_could_not_be_one_of_a_version_is_not_taken(engineer, name):
    for path, content in [
        ("x.pkl", b"x"),
        ("x.json", b"no json"),
        ("a/%2e%2e/x.json", b"{}"),
        ("%2e%2e%2fx.json", b"{}"),
    ]:
        answer = engineer.put(f"/v1/uploads/{name}/{path}", content=content)
        assert answer.status_code in {404, 422}, answer.text
    assert engineer.post(f"/v1/models/{name}/versions", json={"upload": name}).status_code == 422


def test_files_sent_with_another_token_are_not_there(engineer, admin, name, sent):
    assert admin.post(f"/v1/models/{name}/versions", json={"upload": sent}).status_code == 422


def test_an_upload_may_be_as_large_as_one_of_mlflows_and_no_larger(engineer, backend, name):
    large = b'"' + b"x" * (backend.limits.body + 1) + b'"'
    assert engineer.put(f"/v1/uploads/{name}/large.json", content=large).status_code == 200
    larger = b"x" * (backend.limits.upload + 1)
    assert engineer.put(f"/v1/uploads/{name}/larger.json", content=larger).status_code == 413
