"""`matinee models fsck` as it is typed."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_fsck_says_what_is_wrong_and_exits_1_on_errors_only(shell, tmp_path):
    here = {"MATINEE_WORKSPACES": str(tmp_path)}
    assert "0 errors, 0 warnings" in shell("matinee models fsck", **here).stdout
    artifacts = tmp_path / "world" / "artifacts"
    artifacts.mkdir()
    (artifacts / "notes.txt").write_text("to self")
    warned = shell("matinee models fsck --sweep --older-than 0", **here).stdout
    assert "warning misplaced × 1" in warned
    assert "swept: 0 files" in warned
    (artifacts / "sha256").symlink_to(Path("/"))
    failed = shell("matinee models fsck --sweep", fails=True, **here).stdout
    assert "error link × 1" in failed
    assert "nothing was swept" in failed
    report = json.loads(shell("matinee models fsck --json --no-content", fails=True, **here).stdout)
    assert report["counts"] == {"link": 1, "misplaced": 1}
