"""Checkpoints of several ranks, each a process: saved, cut another way, broken off."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from faults import processes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gloo and fork are used")

RUN = """
import json, sys
from pathlib import Path
from distributed import crew
print(json.dumps(crew.main(Path(sys.argv[1]), list(crew.CASES))))
"""


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All cases, in one process that imports everything once."""
    return processes.run(RUN, tmp_path_factory.mktemp("crew"), timeout=300)


def test_a_rank_by_itself_and_another_group(crew: Any) -> None:
    told, total = crew["alone"]
    assert total == 3
    assert all("2 ranks save, but the writer's process_group has 4" in each for each in told)


def test_ranks_hear_all_that_the_first_says(crew: Any) -> None:
    assert crew["long_message"] == [5000] * 3


def test_any_number_of_ranks_loads_it(crew: Any) -> None:
    saved, two, three, one, left = crew["resharding"]
    assert saved == [None] * 4
    assert two == [1, 1], "what two ranks found, cut along the other dimension"
    assert three == [2, 2, 2]
    assert one == [2]
    assert left == ["latest.json", "step-2"], "keep=1 removed the first"


def test_blocks_of_a_mesh_of_two_dimensions(crew: Any) -> None:
    assert crew["two_dimensions"] == [["done"] * 4, [True] * 4, [True]]


def test_fsdp_resumes_where_it_was(crew: Any) -> None:
    trained, two, three = crew["fsdp"]
    for losses in (*trained, *two, *three):
        assert losses == pytest.approx(trained[0], rel=1e-5), "sums over other numbers of ranks round otherwise"


def test_ranks_that_join_another_group(crew: Any) -> None:
    both = [10, 11, 20, 21, 30, 31]
    assert crew["joined_again"] == [["done", [*both, 40, 41]], ["done", both]]


def test_a_full_disk_is_told_to_all_ranks(crew: Any) -> None:
    found = crew["disk_full"]
    for kind, text in found["errors"]:
        assert kind == "CheckpointException"
        assert "[2]" in text
        assert "File too large" in text
        assert "while rank 2 wrote" in text
    assert found["left"] == ["latest.json", "step-1"], "each rank took back what it wrote"
    assert found["loads"] == [1]
    assert found["again"] == ["done"] * 4
    assert found["then"] == ["manifest", *(f"rank-0000{rank}" for rank in range(4))], "and nothing else"


def test_a_rank_that_hangs_is_named_by_the_others(crew: Any) -> None:
    found = crew["hanging"]
    assert found["ended"] == ["raised", "stuck", "raised", "raised"]
    for each in found["errors"]:
        if each is not None:
            assert each[0] == "RanksMissingError"
            assert "rank 1 has not finished" in each[1]
    assert found["loads"] == [1]


def test_ranks_that_are_killed(crew: Any) -> None:
    for killed in crew["killed"]:
        assert "stuck" not in killed["ended"]
        assert "killed" in killed["ended"]
        assert killed["loads"] in (1, 2)
        assert "done" not in killed["ended"] or killed["loads"] == 2, "a rank that was told so can rely on it"
