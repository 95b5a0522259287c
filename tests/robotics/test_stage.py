"""The three stages through the runner, small but whole, and the commands on what they made."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.intervals import wilson
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import USES, Rights
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact, Store
from kiban.cli.robot_collect import as_far_as_the_policy
from kiban.programme.runner import Node, make, plan
from kiban.robotics import demonstrations as demos
from kiban.robotics import tasks
from kiban.robotics.dataset import Dataset
from kiban.robotics.dataset_terms import Terms
from kiban.robotics.demonstrations import Request as Recording
from kiban.robotics.demonstrations import collect, record
from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.recording import load as load_episode
from kiban.robotics.rollout import Record, play, rates, requests_for
from kiban.robotics.stage import RobotSettings, demonstrations, policy, rollout
from tests.commands import error_of, kiban, kiban_json

QUIET = Progress(quiet=True)


class CopySettings(Settings):
    path: str


@stage("export", rights=lambda settings: Rights())
def copied(settings: CopySettings, out: Path, progress: Progress) -> Outcome:
    shutil.copytree(settings.path, out, dirs_exist_ok=True)
    return Outcome()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, language: Path) -> dict[str, Artifact]:
    """All three stages at the smallest size."""
    robot = RobotSettings(tasks=("reach", "pick"), episodes=3, steps=12, batch=8, rollouts=2)
    store = Store(tmp_path_factory.mktemp("robot") / "store")
    nodes = [
        Node("export", copied, CopySettings(path=str(language)), {}),
        Node("demonstrations", demonstrations, robot.demonstrations(), {}),
        Node("policy", policy, robot.policy(), {"demonstrations": "demonstrations", "export": "export"}),
        Node("rollout", rollout, robot.rollout(), {"policy": "policy", "export": "export"}),
    ]
    return {artifact.kind: artifact for artifact in make("test", plan(nodes, store), store, QUIET)}


def test_demonstrations_are_a_dataset(made: dict[str, Artifact], embodiment: Embodiment) -> None:
    artifact = made["demonstrations"]
    dataset = Dataset(artifact.path / "dataset")
    assert artifact.rights.uses == frozenset(USES)
    assert artifact.metrics["demonstrations.episodes"].value == len(dataset.episodes) == 6
    assert artifact.metrics["demonstrations.frames"].value == len(dataset.frames("action"))
    assert 0.5 < artifact.metrics["demonstrations.expert_success_rate"].value <= 1
    action = dataset.frames("action")
    assert (action >= np.array(embodiment.action.lower) - 1e-6).all()
    assert (action <= np.array(embodiment.action.upper) + 1e-6).all()
    assert dataset.features["observation.state"].names == embodiment.state_names
    assert sorted(artifact.manifest.files) == [
        "dataset/data/chunk-000/file-000.parquet",
        "dataset/meta/episodes/chunk-000/file-000.parquet",
        "dataset/meta/info.json",
        "dataset/meta/kiban.json",
        "dataset/meta/stats.json",
        "dataset/meta/tasks.parquet",
    ]


def test_the_policy_carries_what_a_rollout_needs(made: dict[str, Artifact]) -> None:
    artifact = made["policy"]
    assert sorted(artifact.manifest.files) == ["log.jsonl", "policy.json", "policy.safetensors"]
    description = json.loads((artifact.path / "policy.json").read_text())
    assert description["language"] == made["export"].address and description["tasks"] == ["reach", "pick"]
    rows = [json.loads(line) for line in (artifact.path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 12 and rows[-1]["loss"] == artifact.metrics["policy.loss"].value
    assert artifact.metrics["policy.parameters"].value > 1e5 and artifact.metrics["policy.frames_per_s"].value > 0


def test_rollouts_are_recorded_counted_and_filmed(made: dict[str, Artifact]) -> None:
    artifact = made["rollout"]
    content = json.loads((artifact.path / "episodes.json").read_text())
    episodes = content["episodes"]
    assert len(episodes) == 2 * 2 * 2  # tasks, rollouts, wordings
    assert {episode["wordings"] for episode in episodes} == {"train", "held_out"}
    held_out = [episode for episode in episodes if episode["wordings"] == "held_out"]
    for task in ("reach", "pick"):
        outcomes = [episode["success"] for episode in held_out if episode["task"] == task]
        metric = artifact.metrics[f"rollout.{task}.success_rate"]
        assert (metric.value, metric.n) == (np.mean(outcomes), 2)
        assert metric.interval == wilson(sum(outcomes), 2)
        with Image.open(artifact.path / "films" / f"{task}.png") as strip:
            assert strip.size == (6 * 180, 180) and len(strip.getcolors(10**6) or []) > 20
        filmed = next(e for e in held_out if e["task"] == task and e["number"] == content["films"][task]["number"])
        with Image.open(artifact.path / "films" / f"{task}.gif") as film:
            assert film.n_frames > 5
        assert content["films"][task]["instruction"] == filmed["instruction"]
    assert artifact.metrics["rollout.success_rate"].n == 4


def test_an_episode_can_be_played_again(made: dict[str, Artifact]) -> None:
    [first, *_] = requests_for(made["policy"].path, made["export"].path, ("reach",), ("held_out",), 1, seed=0)
    recorded = json.loads((made["rollout"].path / "episodes.json").read_text())["episodes"]
    same = next(e for e in recorded if e["wordings"] == "held_out" and e["task"] == "reach" and e["number"] == 0)
    assert dataclasses.asdict(play(first)) == same
    told = play(dataclasses.replace(first, instruction="青い箱を取って"))
    assert (told.register, told.instruction, told.seed) == ("given", "青い箱を取って", first.seed)


def test_the_wording_gap_is_measured_in_pairs() -> None:
    def records(task: str, wordings: str, outcomes: list[bool]) -> list[Record]:
        return [Record(task, wordings, i, i, "plain", "", success, 1, {}) for i, success in enumerate(outcomes)]

    metrics = rates(records("push", "train", [True, True, True]) + records("push", "held_out", [True, False, False]))
    assert metrics["rollout.push.success_rate"].value == pytest.approx(1 / 3)
    assert metrics["rollout.wording_gap"].value == pytest.approx(2 / 3)


# The commands


def test_robot_evaluate_prints_rates(made: dict[str, Artifact]) -> None:
    answer = kiban_json("robot", "evaluate", made["policy"].path, "--task", "pick", "--episodes", "2", "--json")
    assert 0 <= answer["interval"][0] <= answer["success_rate"] <= answer["interval"][1] <= 1
    assert [episode["number"] for episode in answer["episodes"]] == [0, 1]
    assert {episode["wordings"] for episode in answer["episodes"]} == {"held_out"}


def test_robot_evaluate_names_what_is_wrong(made: dict[str, Artifact]) -> None:
    folder = made["policy"].path
    assert "--task push: this policy was trained on reach, pick" in error_of(
        "robot", "evaluate", folder, "--task", "push"
    )
    assert "is a rollout, not a policy" in error_of("robot", "evaluate", made["rollout"].path)


def test_robot_collect_writes_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "reaches"
    kiban("robot", "collect", folder, "--episodes", "2")
    assert len(Dataset(folder).episodes) == 2
    found = kiban_json("robot", "inspect", folder, "--json")
    assert (found["episodes"], found["robot"], found["problems"]) == (2, "tabletop-arm", [])
    kiban("robot", "convert", folder, folder, tmp_path / "twice", "--layout", "v2.1")
    assert "4 episodes" in kiban("robot", "inspect", tmp_path / "twice").stdout
    (tmp_path / "twice/data/chunk-000/episode_000002.parquet").unlink()
    spoilt = kiban("robot", "inspect", tmp_path / "twice", code=1)
    assert "episode_000002.parquet" in spoilt.stdout and spoilt.stdout.count("\n") == 1
    shutil.rmtree(tmp_path / "twice")
    assert [path.name for path in tmp_path.iterdir()] == ["reaches"]
    assert "is there already" in error_of("robot", "collect", folder)
    assert "there is no such robot" in error_of("robot", "collect", tmp_path / "other", "--embodiment", "asimo")
    assert "there is no such task" in error_of("robot", "collect", tmp_path / "other", "--task", "dance")


# Settings and interruptions


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="there is no such robot; use one of .*tabletop-arm"):
        RobotSettings(embodiment="asimo")
    with pytest.raises(ValidationError, match="Input should be 'reach', 'push'"):
        RobotSettings(tasks=("dance",))


def _collect(folder: str) -> None:
    out = Path(folder)
    collect(load("tabletop-arm"), ("reach", "push"), 8, 0, out / "dataset", out / "episodes", QUIET)


def test_killed_demonstrations_go_on_and_end_at_the_same_bytes(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_collect, args=(str(tmp_path / "killed"),))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("killed/episodes/*.zip"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed" / "dataset").exists()
    found = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/episodes/*.zip")}
    for name in ("killed", "whole"):
        _collect(str(tmp_path / name))
    assert all(path.stat().st_mtime_ns == when for path, when in found.items())  # not recorded again
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "dataset").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_policy_demonstrates_and_only_what_succeeds_is_kept(
    made: dict[str, Artifact], tmp_path: Path, embodiment: Embodiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = demos.Actor(str(made["policy"].path), str(made["export"].path))
    reaching = tasks.DOINGS["reach"]
    monkeypatch.setitem(tasks.DOINGS, "reach", dataclasses.replace(reaching, limit=5))
    monkeypatch.setattr(demos, "MOST_ATTEMPTS", 2)
    request = Recording("tabletop-arm", "reach", 0, 0, tmp_path / "episode.zip", actor)
    with pytest.raises(KibanError, match="reach, episode 0: the policy failed 2 times in a row"):
        record(request)
    assert not request.path.exists()
    monkeypatch.setitem(tasks.DOINGS, "reach", dataclasses.replace(reaching, done=lambda situation: True, hold=3))
    for path in ("a.zip", "b.zip"):
        record(dataclasses.replace(request, path=tmp_path / path))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    episode, notes = load_episode(tmp_path / "a.zip")
    assert len(episode) == 3 and notes == {"attempts": 1}
    action = np.array(episode.table["action"].to_pylist())
    assert (action >= np.array(embodiment.action.lower) - 1e-6).all() and np.ptp(action[:, :3]) > 0
    error = error_of("robot", "collect", tmp_path / "new", "--by", "policy")
    assert "--policy and --by policy go together" in error


def test_what_a_policy_demonstrates_may_be_used_as_far_as_the_policy(made: dict[str, Artifact], tmp_path: Path) -> None:
    shutil.copytree(made["policy"].path, tmp_path / "policy")
    manifest = json.loads((tmp_path / "policy/manifest.json").read_text())
    manifest["rights"] |= {"uses": ["evaluate", "pretrain"], "obligations": ["attribution:plant"]}
    (tmp_path / "policy/manifest.json").write_text(json.dumps(manifest))
    ours = Terms(rights=Rights(uses=frozenset({"pretrain", "serve"})))
    terms = as_far_as_the_policy(ours, tmp_path / "policy")
    assert terms.rights.uses == {"pretrain"} and terms.rights.obligations == {"attribution:plant"}
    assert terms.made == {"from": {"test/policy": made["policy"].address}}


def test_an_episode_depends_on_its_request_alone(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        for number in (4, 3) if name == "a" else (3, 4):
            record(Recording("tabletop-arm", "push", number, 0, tmp_path / f"{name}{number}"))
        written.append([(tmp_path / f"{name}{number}").read_bytes() for number in (3, 4)])
    assert written[0] == written[1]
