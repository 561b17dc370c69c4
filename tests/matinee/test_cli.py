from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest


@pytest.mark.slow
def test_features_list_counts_light_and_heavy_each_described(shell):
    listing = json.loads(shell("matinee features list --json").stdout)
    assert listing["counts"]["light"] >= 50
    assert listing["counts"]["heavy"] >= 500
    for row in listing["features"]:
        assert all(row[field] for field in ("description", "unit", "expectation", "digest")), row["feature"]


@pytest.mark.slow
def test_what_a_source_lacks_is_listed_with_the_columns_it_would_need(shell):
    listing = json.loads(shell("matinee features list --source movielens --json").stdout)
    lacks = {row["feature"]: row["lacks"] for row in listing["unavailable"]}
    assert lacks["user_profile:dwell_seconds_mean_3650d"] == ["hovers.dwell_seconds"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "says"), [
    ("matinee features list --source kuairnd", "Did you mean 'kuairand'?"),
    ("matinee features describe play_cuont_28d", "Did you mean 'play_count_28d'?"),
    ("matinee models show ranker/999", "ranker"),
    ("matinee models search 'metrics.auc >'", "expected"),
    ("matinee models explain ranker --json --mermaid", "--json and --mermaid are two formats of one answer"),
    ("matinee models impact feature play_count_28d --svg - --mermaid", "--mermaid and --svg are two formats"),
    ("matinee models explain ranker --svg /nowhere/ranker.svg", "there is no folder /nowhere"),
    ("matinee day --as-of tomorrow", "is no date"),
    ("MATINEE_DATA=/nowhere matinee events import --source kuairand", "Set MATINEE_DATA"),
])  # fmt: skip
def test_an_error_says_what_would_be_right_and_shows_no_traceback(shell, command, says):
    failed = shell(command, fails=True)
    assert says in " ".join(failed.stderr.replace("│", " ").split())
    assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_a_second_day_recomputes_and_retrains_nothing(a_day, shell):
    again = shell("matinee day").stdout
    for stage in ("import events", "compute features", "gate", "train retriever", "train ranker", "promote"):
        line = next(line for line in again.splitlines() if stage in line)
        assert line.startswith("↷"), line


@pytest.mark.slow
def test_every_read_command_prints_json_for_programs(a_day, shell):
    for command in ("events describe", "features plan", "models list", "models fsck", "models show ranker", "models explain ranker@champion",
                    "models impact feature play_count_28d", "bento list", "experiments list", "experiments check", "recommend 17"):  # fmt: skip
        json.loads(shell(f"matinee {command} --json").stdout)


@pytest.mark.slow
@pytest.mark.parametrize("question", ["explain ranker@champion", "impact feature play_count_28d"])
def test_a_lineage_is_a_picture_in_a_file_or_on_standard_output_and_a_flow_chart(
    a_day, shell, tmp_path, question
):
    written = tmp_path / "lineage.svg"
    assert str(written) in shell(f"matinee models {question} --svg {written}").stdout
    picture = shell(f"matinee models {question} --svg -").stdout
    assert picture == written.read_text(encoding="utf-8")
    names = {group.get("data-name") for group in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")}
    known = json.loads(shell(f"matinee models {question} --json").stdout)
    assert {f"version {version['ref']}" for version in known["versions"]} <= names
    chart = shell(f"matinee models {question} --mermaid").stdout
    assert chart.startswith("flowchart LR\n")
    assert chart.count(" --> ") == picture.count("data-before=") > 0


@pytest.mark.slow
def test_the_page_names_its_titles_their_scores_and_the_versions_behind_them(a_day, shell):
    page = json.loads(shell("matinee recommend 17 --size 20 --json").stdout)
    assert page["source"] == "ranked"
    assert len(page["titles"]) == 20
    assert [t["position"] for t in page["titles"]] == list(range(20))
    assert set(page["versions"]) == {"retriever", "ranker", "artwork"}
    for title in page["titles"]:
        assert title["name"]
        assert 0 < title["propensity"] <= 1
        assert 0 <= title["scores"]["play"] <= 1
