from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_a_feature_names_the_versions_in_use_that_were_trained_on_it_and_no_others(opened_day):
    from matinee.documenting import usage

    found = usage(opened_day)
    declared = opened_day.workspace.declarations
    champions = {m.name: f"{m.name}/{m.aliases['champion']} @champion" for m in opened_day.registry.models()}

    def models(table, feature):
        read = found.get(declared.table(table)[feature].digest)
        return {told for told in read.models if told in champions.values()} if read else set()

    assert models("user_activity", "hover_count_14d") == {champions["ranker"]}
    assert champions["artwork"] in models("user_taste", "in_drama_share_28d")
    assert models("artwork_profile", "warmth") == {champions["creative_quality"], champions["artwork"]}
    for service in ("retrieval_user", "retrieval_title", "ranking", "artwork_context", "artwork_image"):
        for reference, feature in declared.service(service).features:
            assert found[feature.digest].models, reference


def test_the_docs_command_writes_a_site_with_data_and_models(shell, a_day, tmp_path):
    said = shell(f"matinee features docs --to {tmp_path}/site").stdout
    assert f"{tmp_path}/site/index.html" in said.replace("\n", "")
    page = (tmp_path / "site" / "user_activity.html").read_text()
    assert page.count("<svg") > 400
    assert "ranker/1 @champion" in page
    assert "http" not in page.replace("https://www.w3.org", "")
    assert sum(path.stat().st_size for path in (tmp_path / "site").iterdir()) < 5_000_000
