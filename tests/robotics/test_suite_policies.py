"""From demonstrations of Meta-World to an evaluation, each step by its command; the policy has learned nothing."""

from pathlib import Path

import pytest

from tests.commands import error_of, kiban, kiban_json


@pytest.mark.slow
def test_a_policy_of_meta_world_is_recorded_trained_and_evaluated(tmp_path: Path, language: Path) -> None:
    pytest.importorskip("metaworld", reason="pip install 'kiban[metaworld]'")
    dataset, policy = tmp_path / "dataset", tmp_path / "policy"
    kiban("robot", "collect", dataset, "--suite", "mt50-ja", "--task", "reach-v3", "--episodes", "2")
    kiban("robot", "train", dataset, "--language", language, "--out", policy, "--steps", "3", "--batch", "4")
    answer = kiban_json(
        "robot", "evaluate", policy, "--suite", "mt50-ja", "--task", "reach-v3", "--episodes", "1",
        "--perturb", "latency=2", "--json",
    )  # fmt: skip
    assert [task["episodes"] for task in answer["tasks"]] == [1]
    assert [row["condition"] for row in answer["perturbations"]] == ["train", "train latency=2"]
    assert len(answer["episodes"]) == 3
    assert "--suite tabletop: this policy was trained for mt50-ja" in error_of(
        "robot", "evaluate", policy, "--suite", "tabletop"
    )
