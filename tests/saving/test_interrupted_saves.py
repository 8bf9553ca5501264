"""The path holds the old file or the new one, whole, whatever call of the save is the last or fails."""

from __future__ import annotations

import os

import pytest

from faults import processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each attempt is a fork of one process")

OPERATIONS = ("save", "save in threads", "compress", "decompress")
MAIN = "import json, runpy; runpy.run_module('faults.interrupted', run_name='__main__')"


def attempts(folder, operation, *faults):
    report = processes.run(MAIN, folder, operation, ",".join(faults))
    assert report["made"].count("replace") == 1
    return report, report["made"].index("replace") + 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_at_any_call_leaves_the_old_file_or_the_new_one(operation, tmp_path):
    report, replaced = attempts(tmp_path, operation, "kill before", "kill after", "kill within")
    assert len(report["attempts"]) > 2 * len(report["made"])
    for attempt in report["attempts"]:
        done = attempt["at"] - (attempt["fault"] != "kill after")  # calls
        assert attempt["ended"] == "killed", attempt
        assert attempt["holds"] == ("new" if done >= replaced else "old"), attempt
        assert len(attempt["left"]) <= 1, attempt
        for name, mode in attempt["left"]:
            assert name.startswith(".model."), attempt
            assert name.endswith(".tmp"), attempt
            assert mode in (0o600, 0o640), attempt  # private, until it has the old file's mode
    assert report["litter"] > 40  # among which a save then succeeded


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_of_any_call_is_raised_and_leaves_the_old_file_alone(operation, tmp_path):
    report, replaced = attempts(tmp_path, operation, "ENOSPC", "EIO", "EDQUOT", "EACCES", "EINTR")
    assert len(report["attempts"]) == 5 * len(report["made"])
    for attempt in report["attempts"]:
        no_harm = attempt["call"] == "lstat"  # of a folder on the way, which is then not looked through for links
        unreadable_folder = (attempt["call"], attempt["fault"]) == ("open", "EACCES") and attempt["at"] > replaced
        if not ((no_harm or unreadable_folder) and attempt["ended"] == "saved"):
            assert attempt["ended"] == attempt["fault"], attempt
        new = attempt["ended"] == "saved" or attempt["at"] > replaced
        assert attempt["holds"] == ("new" if new else "old"), attempt
        assert not attempt["left"], attempt


@pytest.mark.parametrize("operation", OPERATIONS)
def test_calls_that_fall_short_are_made_again(operation, tmp_path):
    report, _ = attempts(tmp_path, operation, "short")
    for attempt in report["attempts"]:
        assert (attempt["ended"], attempt["holds"], attempt["left"]) == ("saved", "new", []), attempt


def test_an_error_of_fsync_is_final(tmp_path):
    """It is not tried again: the kernel may have thrown the data away and say that all is well the second time."""
    report, replaced = attempts(tmp_path, "save", "EIO")
    of_fsync = [attempt for attempt in report["attempts"] if attempt["call"] == "fsync"]
    assert [(attempt["ended"], attempt["at"] < replaced) for attempt in of_fsync] == [("EIO", True), ("EIO", False)]
    assert [attempt["holds"] for attempt in of_fsync] == ["old", "new"]
