"""Our own API: what the ledger does, over HTTP, and what it refuses in words a program can act on."""

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from registry import ArmRecord, BentoRecord, ExperimentRecord, Metric
from registry.drawing import to_svg
from registry.http import Role, create_app
from registry.http.views import VersionView


@pytest.fixture
def versions(backend, draft, name):
    """Three versions of a model nobody else uses."""
    return [backend.registry.register(draft(name, weights)) for weights in range(3)]


def test_a_version_is_answered_as_the_ledger_has_it(viewer, backend, draft, lineage, name):
    service, training_set = lineage(backend.registry, name)
    version = backend.registry.register(
        draft(name, service=service, training_set=training_set, tags={"team": "home"}, params={"rate": 0.1},
              config={"layers": [2, 3]}, seed=7, signature={"inputs": ["a"]}, source="world", created_by="ada")
    )  # fmt: skip
    answer = viewer.get(f"/v1/models/{name}/versions/1")
    assert answer.status_code == 200
    assert VersionView.model_validate(answer.json()) == VersionView.model_validate(version)
    assert answer.json()["params"] == {"rate": "0.1"}
    assert answer.json()["files"][0]["sha256"] == hashlib.sha256(b"# Offline evaluation").hexdigest()


def test_models_come_in_pages_by_name(viewer, backend, draft, name):
    for suffix in "cab":
        backend.registry.register(draft(f"{name}-{suffix}"))
    seen, token, pages = [], None, 0
    while token is not None or not pages:
        params = {"query": f"name like '{name}-%'", "limit": 2, **({"page_token": token} if token else {})}
        page = viewer.get("/v1/models", params=params).json()
        seen += [model["name"][-1] for model in page["models"]]
        token, pages = page["next_page_token"], pages + 1
    assert (seen, pages) == (["a", "b", "c"], 2)


def test_a_model_says_where_its_aliases_stand(viewer, backend, versions, name):
    backend.registry.promote(f"{name}/2", "shadow", by="ada", reason="try")
    model = viewer.get(f"/v1/models/{name}").json()
    assert (model["versions"], model["latest"], model["aliases"]) == (3, 3, {"shadow": 2})


def test_versions_are_searched_sorted_and_paged(viewer, backend, draft, name):
    for weights, auc in enumerate([0.5, 0.9, 0.7, 0.8]):
        backend.registry.register(draft(name, weights, metrics=[Metric("auc", auc, split="test")]))
    params = {"query": f"name = '{name}' and metrics.auc > 0.6", "order_by": "metrics.auc DESC", "limit": 2}
    first = viewer.get("/v1/versions", params=params).json()
    rest = viewer.get("/v1/versions", params={**params, "page_token": first["next_page_token"]}).json()
    assert [version["number"] for version in first["versions"]] == [2, 4]
    assert [version["number"] for version in rest["versions"]] == [3]
    assert rest["next_page_token"] is None


def test_a_query_that_cannot_be_understood_shows_the_place(viewer):
    answer = viewer.get("/v1/versions", params={"query": "metrics.auc >> 1"})
    problem = answer.json()
    assert (answer.status_code, problem["error"], problem["position"]) == (422, "QuerySyntax", 13)
    assert problem["problems"][0]["field"] == "query"
    assert "^" in problem["message"]


@pytest.mark.parametrize("token", ["nonsense", "AAAA", "bnVsbA==", "WyJ4Il0="])
def test_a_page_token_that_was_not_handed_out_is_refused(viewer, token):
    for path in ("/v1/versions", "/v1/models"):
        answer = viewer.get(path, params={"page_token": token})
        assert (answer.status_code, answer.json()["error"]) == (422, "InvalidPageToken")


def test_a_promotion_is_answered_with_the_version_and_is_in_the_history(engineer, viewer, versions, name):
    path = f"/v1/models/{name}/aliases/shadow"
    moved = engineer.put(path, json={"version": 2, "expect": None, "reason": "try", "evidence": {"ab": 7}})
    assert (moved.status_code, moved.json()["ref"], moved.json()["aliases"]) == (200, f"{name}/2", ["shadow"])
    assert viewer.get(path).json()["number"] == 2
    (move,) = viewer.get(path + "/history").json()
    assert (move["by"], move["reason"], move["from_number"], move["to_number"]) == (
        "engineer",
        "try",
        None,
        2,
    )
    assert move["evidence"]["ab"] == 7


@pytest.mark.parametrize(("expect", "status"), [(1, 200), (2, 409), (None, 409), ("left out", 200)])
def test_a_promotion_moves_only_from_where_it_expects_the_alias(
    engineer, backend, versions, name, expect, status
):
    backend.registry.promote(f"{name}/1", "shadow", by="ada", reason="before")
    body = {"version": 3, "reason": "next"} | ({} if expect == "left out" else {"expect": expect})
    answer = engineer.put(f"/v1/models/{name}/aliases/shadow", json=body)
    assert answer.status_code == status
    if status == 409:
        problem = answer.json()
        assert (problem["error"], problem["current"], problem["expected"]) == ("AliasMoved", 1, expect)
        assert problem["problems"][0]["field"] == "expect"
    assert backend.registry.get(f"{name}@shadow").number == (3 if status == 200 else 1)


def test_of_many_that_expect_the_same_one_wins_and_all_are_told(engineer, backend, draft, name):
    for weights in range(9):
        backend.registry.register(draft(name, weights))

    def promote(number):
        body = {"version": number, "expect": None, "reason": "race"}
        return engineer.put(f"/v1/models/{name}/aliases/shadow", json=body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(promote, range(1, 9)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    winner = next(answer.json()["number"] for answer in answers if answer.status_code == 200)
    assert {answer.json()["current"] for answer in answers if answer.status_code == 409} == {winner}


def test_a_champion_without_evidence_is_refused_with_what_is_lacking(engineer, backend, draft, name):
    backend.registry.register(draft(name, metrics=[]))
    answer = engineer.put(f"/v1/models/{name}/aliases/champion", json={"version": 1, "reason": "hope"})
    assert (answer.status_code, answer.json()["error"]) == (422, "NoEvidence")
    assert any("metrics" in lack for lack in answer.json()["lacks"])
    added = engineer.post(
        f"/v1/models/{name}/versions/1/metrics",
        json={"metrics": [{"key": "auc", "value": 0.7, "split": "test"}]},
    )
    assert added.json()["metrics"] == [
        {"key": "auc", "value": 0.7, "dataset": "", "split": "test", "k": None}
    ]
    assert engineer.put(
        f"/v1/models/{name}/aliases/champion", json={"version": 1, "reason": "measured"}
    ).is_success


def test_a_metric_is_not_recorded_twice_with_two_values(engineer, versions, name):
    path, metric = f"/v1/models/{name}/versions/1/metrics", {"key": "auc", "value": 0.7}
    assert engineer.post(path, json={"metrics": [metric]}).is_success
    answer = engineer.post(path, json={"metrics": [{**metric, "value": 0.8}]})
    assert (answer.status_code, answer.json()["error"]) == (409, "DefinitionConflict")


def test_a_roll_back_takes_back_one_move(engineer, backend, versions, name):
    path = f"/v1/models/{name}/aliases/shadow"
    for number in (1, 2):
        backend.registry.promote(f"{name}/{number}", "shadow", by="ada", reason="next")
    assert engineer.post(path + "/rollback", json={"reason": "worse"}).json()["number"] == 1
    again = engineer.post(path + "/rollback", json={"reason": "worse still"})
    assert (again.status_code, again.json()["error"]) == (409, "NothingToRollBack")


def test_an_alias_is_removed_with_a_reason(engineer, backend, versions, name):
    backend.registry.promote(f"{name}/1", "shadow", by="ada", reason="try")
    path = f"/v1/models/{name}/aliases/shadow"
    assert engineer.delete(path).status_code == 422
    assert engineer.delete(path, params={"reason": "done"}).status_code == 204
    assert [move.reason for move in backend.registry.alias_history(name, "shadow")] == ["try", "done"]
    assert engineer.delete(path, params={"reason": "again"}).status_code == 404


def test_tags_are_set_and_removed(engineer, backend, versions, name):
    path = f"/v1/models/{name}/versions/1/tags/team"
    assert engineer.put(path, json={"value": "home"}).status_code == 204
    assert backend.registry.get(f"{name}/1").tags == {"team": "home"}
    assert engineer.delete(path).status_code == 204
    assert backend.registry.get(f"{name}/1").tags == {}


def test_what_is_referred_to_is_not_deleted_and_the_list_says_by_what(admin, backend, versions, name):
    backend.registry.promote(f"{name}/1", "shadow", by="ada", reason="try")
    answer = admin.delete(f"/v1/models/{name}/versions/1")
    assert (answer.status_code, answer.json()["referrers"]) == (409, ["alias 'shadow'"])
    assert admin.delete(f"/v1/models/{name}/versions/2").status_code == 204
    answer = admin.delete(f"/v1/models/{name}")
    assert (answer.status_code, answer.json()["referrers"]) == (409, [f"{name}/1", f"{name}/3"])


def test_the_chain_is_answered_both_ways(viewer, backend, draft, lineage, name):
    service, training_set = lineage(backend.registry, name)
    backend.registry.register(draft(name, service=service, training_set=training_set))
    for path, target in [("explain", f"{name}/1"), ("impact", f"feature plays_{name}")]:
        answer = viewer.get(f"/v1/{path}", params={"target": target})
        asked = backend.registry.explain(target) if path == "explain" else backend.registry.impact(target)
        assert answer.json() == json.loads(json.dumps(asked.to_dict()))
        assert answer.json()["versions"][0]["ref"] == f"{name}/1"
    assert viewer.get("/v1/impact", params={"target": "feature nothing"}).status_code == 404


def test_the_chain_is_answered_as_a_picture_or_a_flow_chart_that_runs_nothing(
    viewer, backend, draft, lineage, name
):
    odd = f"{name} <script>&"
    service, training_set = lineage(backend.registry, name)
    backend.registry.register(draft(odd, service=service, training_set=training_set))
    for path, target in [("explain", f"{odd}/1"), ("impact", f"feature plays_{name}")]:
        asked = backend.registry.explain(target) if path == "explain" else backend.registry.impact(target)
        for shown, kind, text in [
            ("svg", "image/svg+xml", to_svg(asked)), ("mermaid", "application/vnd.mermaid", asked.to_mermaid()),
        ]:  # fmt: skip
            answer = viewer.get(f"/v1/{path}", params={"target": target, "format": shown})
            assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
            assert answer.content.decode() == text
            assert answer.headers["content-security-policy"] == "sandbox"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "<script" not in answer.text
        plain = viewer.get(f"/v1/{path}", params={"target": target})
        assert viewer.get(f"/v1/{path}", params={"target": target, "format": "json"}).json() == plain.json()


@pytest.mark.parametrize("path", ["explain", "impact"])
def test_a_format_there_is_not_is_refused_with_those_there_are(viewer, versions, name, path):
    answer = viewer.get(f"/v1/{path}", params={"target": f"{name}/1", "format": "png"})
    assert (answer.status_code, answer.json()["error"]) == (422, "InvalidRequest")
    (problem,) = answer.json()["problems"]
    assert problem["field"] == "query.format"
    assert all(word in problem["reason"] for word in ("json", "mermaid", "svg"))
    missing = viewer.get(f"/v1/{path}", params={"target": "nothing", "format": "svg"})
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")


def test_the_formats_of_a_lineage_are_described(viewer):
    paths = viewer.get("/openapi.json").json()["paths"]
    for path in ("/v1/explain", "/v1/impact"):
        described = paths[path]["get"]
        (shown,) = (given for given in described["parameters"] if given["name"] == "format")
        assert (shown["schema"]["enum"], shown["schema"]["default"]) == (["json", "mermaid", "svg"], "json")
        assert set(described["responses"]["200"]["content"]) == {
            "application/json", "application/vnd.mermaid", "image/svg+xml",
        }  # fmt: skip


def test_experiments_readouts_and_what_is_live_are_answered(viewer, backend, versions, name):
    ledger = backend.registry
    ledger.record_bento(BentoRecord(f"home:{name}", "b1", (f"{name}/1",)))
    arms = (
        ArmRecord("control", {"ranker": f"{name}/1"}),
        ArmRecord("new", {"ranker": f"{name}/2"}, {"k": 3}),
    )
    ledger.record_experiment(ExperimentRecord(name, "ranking", arms, {"seed": 1}), by="ada")
    ledger.start_experiment(name, by="ada")
    ledger.record_readout(name, {"lift": 0.04})
    (found,) = (run for run in viewer.get("/v1/experiments").json() if run["name"] == name)
    assert [arm["name"] for arm in found["arms"]] == ["control", "new"]
    assert {"parameter": "ranker", "version": f"{name}/2", "value": None} in found["arms"][1]["bindings"]
    assert [change["state"] for change in found["history"]] == ["draft", "running"]

    def in_state(state):
        return [run["name"] for run in viewer.get("/v1/experiments", params={"state": state}).json()]

    assert name in in_state("running")
    assert name not in in_state("launched")
    answer = viewer.get("/v1/experiments", params={"state": "lanched"})
    assert (answer.status_code, "'killed'" in answer.text) == (422, True)
    assert viewer.get(f"/v1/experiments/{name}/readouts").json()[0]["verdict"] == {"lift": 0.04}
    where = {(live["ref"], live["where"]) for live in viewer.get("/v1/live").json()}
    assert {(f"{name}/1", f"home:{name}"), (f"{name}/2", f"{name}/new")} <= where


def test_a_file_is_answered_with_its_digest_and_is_not_run_by_a_browser(viewer, backend, draft, name):
    page = b"<script>alert(1)</script>"
    backend.registry.register(draft(name, files={"docs/page.html": page}))
    answer = viewer.get(f"/v1/models/{name}/versions/1/files/docs/page.html")
    assert (answer.content, answer.headers["content-type"]) == (page, "text/html; charset=utf-8")
    assert answer.headers["etag"] == f'"{hashlib.sha256(page).hexdigest()}"'
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "attachment"


def test_documents_are_listed_and_shown_and_a_browser_runs_and_fetches_nothing_of_them(
    viewer, backend, draft, name
):
    held = {
        "report.html": ("text/html; charset=utf-8", b"<style>p{}</style><script>alert(1)</script>"),
        "curve.svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        "evaluation.json": ("application/json", b"{}"),
        "notes.md": ("text/markdown; charset=utf-8", b"# Notes"),
        "curve.png": ("image/png", b"\x89PNG\r\n\x1a\nIEND\xaeB`\x82"),
    }  # fmt: skip
    documents = {file: content for file, (_, content) in held.items()}
    backend.registry.register(draft(name, documents=documents))
    listed = viewer.get(f"/v1/models/{name}/versions/1/documents").json()
    assert listed == [
        {"name": file, "media_type": held[file][0].split(";")[0], "size": len(documents[file]),
         "sha256": hashlib.sha256(documents[file]).hexdigest()} for file in sorted(held)
    ]  # fmt: skip
    for file, (kind, content) in held.items():
        answer = viewer.get(f"/v1/models/{name}/versions/1/documents/{file}")
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, kind, content)
        assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"sandbox", "default-src 'none'"} <= set(policy)
        assert not any(word in one for one in policy for word in ("script", "allow-", "http", "*"))
        assert "content-disposition" not in answer.headers


def test_a_document_there_is_not_is_a_404_that_says_which_there_are(viewer, backend, draft, name):
    backend.registry.register(draft(name, documents={"report.html": b"<p>"}))
    answer = viewer.get(f"/v1/models/{name}/versions/1/documents/report.htm")
    assert answer.status_code == 404
    assert "report.html" in answer.json()["message"]
    assert viewer.get(f"/v1/models/{name}/versions/2/documents").status_code == 404
    assert viewer.get(f"/v1/models/{name}/versions/1/documents/..%2f..%2fetc%2fpasswd").status_code == 404


def test_documents_are_not_among_the_files_of_a_version_over_http(viewer, backend, draft, name):
    backend.registry.register(draft(name, documents={"report.html": b"<p>"}))
    files = viewer.get(f"/v1/models/{name}/versions/1").json()["files"]
    assert "report.html" not in [file["path"] for file in files]
    assert viewer.get(f"/v1/models/{name}/versions/1/files/report.html").status_code == 404


def test_the_kinds_of_documents_are_described(viewer):
    described = viewer.get("/openapi.json").json()["paths"]
    content = described["/v1/models/{name}/versions/{number}/documents/{file}"]["get"]["responses"]["200"][
        "content"
    ]
    assert set(content) == {"text/html", "image/svg+xml", "application/json", "text/markdown", "image/png"}


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "nothing.json", ""]
)
def test_a_path_is_looked_up_and_never_opened(viewer, versions, name, path):
    answer = viewer.get(f"/v1/models/{name}/versions/1/files/{path}")
    assert answer.status_code == 404
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reason": "x"}, "body.version"),
        ({"version": 0, "reason": "x"}, "body.version"),
        ({"version": 10**9, "reason": "x"}, "body.version"),
        ({"version": "two", "reason": "x"}, "body.version"),
        ({"version": 1}, "body.reason"),
        ({"version": 1, "reason": ""}, "body.reason"),
        ({"version": 1, "reason": "x\0y"}, "body.reason"),
        ({"version": 1, "reason": "x", "expect": -1}, "body.expect"),
        ({"version": 1, "reason": "x", "force": True}, "body.force"),
    ],
)
def test_a_body_that_is_wrong_is_refused_field_by_field(engineer, versions, name, body, field):
    answer = engineer.put(f"/v1/models/{name}/aliases/shadow", json=body)
    assert (answer.status_code, answer.json()["error"]) == (422, "InvalidRequest")
    assert [problem["field"] for problem in answer.json()["problems"]] == [field]
    assert all(problem["reason"] for problem in answer.json()["problems"])


def test_a_body_that_is_no_json_is_refused(engineer, versions, name):
    for body in (b"{", b"[]", b"\xff", b'{"version": 1e400, "reason": "x"}', b"[" * 100_000):
        answer = engineer.put(
            f"/v1/models/{name}/aliases/shadow", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in {400, 422}, body[:20]
        assert answer.json()["error"] in {"BadRequest", "InvalidRequest"}


def test_what_is_not_an_endpoint_says_so_in_the_words_of_its_protocol(viewer):
    ours, theirs = viewer.get("/v1/nothing"), viewer.get("/api/2.0/mlflow/nothing")
    assert (ours.status_code, ours.json()["error"]) == (404, "NoSuchEndpoint")
    assert (theirs.status_code, theirs.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    wrong = viewer.post("/v1/live")
    assert (wrong.status_code, wrong.json()["error"]) == (405, "MethodNotAllowed")
    assert viewer.put("/api/2.0/mlflow/registered-models/get").status_code == 405


def test_an_error_of_the_servers_own_shows_nothing_of_the_inside(viewer, backend, versions, name, caplog):
    with backend.database.connection() as raw:
        raw.exec_driver_sql("ALTER TABLE tag RENAME TO tag_gone")
    answers = [
        viewer.get(f"/v1/models/{name}/versions/1"),
        viewer.get("/api/2.0/mlflow/model-versions/get", params={"name": name, "version": "1"}),
    ]
    with backend.database.connection() as raw:
        raw.exec_driver_sql("ALTER TABLE tag_gone RENAME TO tag")
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[0].json()["error"] == "InternalError"
    assert answers[1].json()["error_code"] == "INTERNAL_ERROR"
    for answer in answers:
        assert not any(word in answer.text for word in ("Traceback", "sqlalchemy", "SELECT", "tag"))
        reference = answer.json()["message"].split()[-1].rstrip(".")
        assert reference in caplog.text


def test_the_api_describes_itself_with_examples(viewer):
    document = viewer.get("/openapi.json", headers={"Authorization": ""}).json()
    assert document["openapi"].startswith("3.1")
    shapes = document["components"]["schemas"]
    assert shapes["PromotionView"]["examples"] == [
        {"version": 3, "expect": 2, "reason": "recall@200 +4 % at equal latency"}
    ]
    ours = {shape for shape in shapes if shape.endswith("View") and shape != "ProblemView"}
    assert all(shapes[shape].get("additionalProperties") is False for shape in ours)
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    promote = document["paths"]["/v1/models/{name}/aliases/{alias}"]["put"]
    assert promote["security"] == [{"HTTPBearer": []}]
    assert {"200", "401", "403", "404", "409", "422", "429"} <= set(promote["responses"])


def test_behind_a_proxy_links_lead_to_where_clients_reach_the_server(backend, tokens, versions, name):
    app = create_app(backend, public_url="https://registry.example/")

    async def asked():
        transport, headers = httpx.ASGITransport(app), {"Authorization": f"Bearer {tokens[Role.VIEWER]}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://inside", headers=headers
        ) as client:
            path = "/api/2.0/mlflow/model-versions/get-download-uri"
            return await client.get(path, params={"name": name, "version": "2"})

    answer = asyncio.run(asked())
    assert answer.json() == {
        "artifact_uri": f"https://registry.example/api/2.0/mlflow-artifacts/artifacts/{name}/2"
    }


def test_nobody_is_told_of_a_change_that_is_not_in_the_log(engineer, backend, versions, name):
    with backend.database.connection() as raw:
        raw.exec_driver_sql("ALTER TABLE audit_entry RENAME TO audit_gone")
    answer = engineer.put(f"/v1/models/{name}/aliases/shadow", json={"version": 1, "reason": "x"})
    with backend.database.connection() as raw:
        raw.exec_driver_sql("ALTER TABLE audit_gone RENAME TO audit_entry")
    assert (answer.status_code, answer.json()["error"]) == (500, "InternalError")
    assert [move.by for move in backend.registry.alias_history(name, "shadow")] == ["engineer"]
