"""`kiban robot train` on datasets as they come: what it makes, goes on with, and refuses."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics.agent import load_policy, reader_of
from kiban.robotics.examples import Frames, Recorded, robots_of
from kiban.robotics.features import ACTION, IMAGES, STATE, Feature, encode, image
from kiban.robotics.language import Reader
from kiban.robotics.lerobot_v3 import DatasetWriter
from kiban.robotics.stage import PolicySettings
from kiban.robotics.train_policy import Sizes, train_from
from tests.commands import error_of, kiban, kiban_json
from tests.robotics.test_policy import write_dataset

QUIET = Progress(quiet=True)
FEW = ("--steps", "4", "--batch", "8", "--threads", "1", "--width", "32", "--layers", "1")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("datasets")
    write_dataset(folder / "one")
    write_dataset(folder / "other", "other-arm", ("wrist", "eye"), more=2)
    return folder / "one", folder / "other"


def test_two_datasets_make_one_whole_folder(datasets: tuple[Path, Path], tmp_path: Path, language: Path) -> None:
    out = tmp_path / "policy"
    said = kiban(
        *("robot", "train", *datasets, "--language", language, "--out", out, *FEW, "--held-out", "0.25"),
        *("--euler-steps", "1", "--distil"),
    ).stdout
    assert "parameters" in said and "held-out loss" in said and "frames/s" in said
    policy, description = load_policy(out)
    assert description.embodiments == ("test", "other-arm") and policy.config.width == 32
    assert (description.euler_steps, description.distilled, description.language_trained) == (1, True, False)
    assert [row["step"] for row in rows(out)] == [4, 5]
    assert "held_out_loss" in rows(out)[0] and "distillation_loss" in rows(out)[1]
    assert torch.equal(reader_of(out, Path("nowhere")).read("押して"), Reader.load(language).read("押して"))
    assert sorted(path.name for path in out.iterdir()) == ["language", "log.jsonl", "policy.json", "policy.safetensors"]
    assert "holds a trained policy already" in error_of(
        "robot", "train", *datasets, "--language", language, "--out", out
    )


def test_a_language_model_can_learn_on(datasets: tuple[Path, Path], tmp_path: Path, language: Path) -> None:
    out = tmp_path / "policy"
    kiban("robot", "train", datasets[0], "--language", language, "--out", out, *FEW, "--train-language")
    assert load_policy(out)[1].language_trained
    mine, given = reader_of(out, language), Reader.load(language)
    assert not torch.equal(mine.read("押して"), given.read("押して"))
    assert torch.allclose(mine.read("押して"), given.read("押して"), atol=0.5)


def test_what_was_recorded_by_the_simulator_is_trained_on_and_evaluated(tmp_path: Path, language: Path) -> None:
    kiban("robot", "collect", tmp_path / "reaches", "--episodes", "2")
    out = tmp_path / "policy"
    kiban("robot", "train", tmp_path / "reaches", "--language", language, "--out", out, *FEW, "--policy", "act")
    answer = kiban_json("robot", "evaluate", out, "--task", "reach", "--episodes", "1", "--json")
    assert len(answer["episodes"]) == 1 and answer["episodes"][0]["steps"] > 0


def test_another_run_does_not_go_on_in_the_same_place(
    datasets: tuple[Path, Path], tmp_path: Path, language: Path
) -> None:
    def run(seed: int) -> None:
        settings = PolicySettings(steps=2, batch=8, threads=1, seed=seed)
        sizes = Sizes(width=32, layers=1)
        train_from(settings, datasets[:1], (), language, "sha256:0", tmp_path, tmp_path / "work", QUIET, sizes)

    run(seed=1)
    weights = (tmp_path / "policy.safetensors").read_bytes()
    with pytest.raises(KibanError, match="work: is of a run with other settings or data; give those"):
        run(seed=2)
    run(seed=1)
    assert (tmp_path / "policy.safetensors").read_bytes() == weights


def test_datasets_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    def refused(name: str, features: dict[str, Feature], **frames: Any) -> str:
        writer = DatasetWriter(tmp_path / name, features, 20, "test")
        writer.add(encode(features, {feature: frames[feature.rsplit(".")[-1]] for feature in features}, "押して"))
        writer.finish()
        with pytest.raises(KibanError) as told:
            recorded = Recorded.read(tmp_path / name, tmp_path / "work" / name)
            Frames(recorded, robots_of([recorded])[1]["test"], 4, held_out=0.9, seed=0)
        return str(told.value)

    state, action = Feature("float32", (2,), ("a", "b")), Feature("float32", (1,), ("c",))
    numbers = {"state": np.zeros((4, 2), np.float32), "action": np.zeros((4, 1), np.float32)}
    picture = {"eye": np.zeros((4, 16, 16, 3), np.uint8)}
    eye = {IMAGES + "eye": image(16, 16)}
    assert "has no camera" in refused("blind", {STATE: state, ACTION: action}, **numbers)
    assert "has no 'observation.state'; it has action" in refused("numb", {ACTION: action, **eye}, **numbers, **picture)
    assert "1 episodes, all held out" in refused("one", {STATE: state, ACTION: action, **eye}, **numbers, **picture)


def test_wrong_options_are_named(datasets: tuple[Path, Path], tmp_path: Path, language: Path) -> None:
    def refused(language: Path, *options: str) -> str:
        return error_of("robot", "train", datasets[0], "--language", language, "--out", tmp_path / "out", *options)

    assert "is no exported language model" in refused(tmp_path)
    assert "--policy pi0: there is none of that name; use kiban, act, diffusion" in refused(language, "--policy", "pi0")
    assert "--distil: network 'act' has no flow" in refused(language, "--policy", "act", "--distil")


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, language: Path) -> None:
    """In order, with fewer episodes and steps, and another language model."""
    page = (Path(__file__).parents[2] / "docs" / "robot-policy.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ kiban (robot .*)$", page, flags=re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        few = re.sub(r"--(episodes|steps) \d+", r"--\1 2", command)
        kiban(*few.replace("recipes/demo/.kiban/artifacts/export/*/", str(language)).split(), cwd=tmp_path)
    assert load_policy(tmp_path / "quick")[1].euler_steps == 1
