"""The network, its training and its refusals."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics.agent import DESCRIPTION, WEIGHTS, Agent, PolicyDescription, load_policy, save_policy
from kiban.robotics.demonstrations import ACTION, IMAGES, STATE
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.language import DEPTHS, Reader
from kiban.robotics.lerobot_v3 import Dataset, DatasetWriter, Feature, encode, image
from kiban.robotics.normaliser import CHANNELS, Normaliser, Normalisers
from kiban.robotics.policy import CameraShape, Policy, PolicyConfig
from kiban.robotics.train_policy import Examples, train

QUIET = Progress(quiet=True)
TOOL = ("tool.x", "tool.y", "tool.z")
RED, BLUE = "赤い箱に手を伸ばして", "青い箱に手を伸ばして"


def small_network(language: int) -> PolicyConfig:
    return PolicyConfig(
        cameras=(CameraShape(name="eye", height=16, width=16),),
        state=3,
        action=2,
        language=language,
        chunk=4,
        width=32,
        layers=1,
        attention_heads=2,
        channels=8,
        named_heads=2,
        free_heads=1,
    )


def write_dataset(folder: Path) -> Dataset:
    """The same picture of a red and a blue spot, left and right or right and left; the sentence says where to go."""
    features = {
        STATE: Feature("float32", (3,), TOOL),
        ACTION: Feature("float32", (2,), ("dx", "dy")),
        IMAGES + "eye": image(16, 16),
    }
    writer = DatasetWriter(folder, features, fps=20, robot_type="test")
    for red_is_left in (True, False):
        for sentence in (RED, BLUE):
            picture = np.full((16, 16, 3), 90, np.uint8)
            left, right = ((200, 20, 20), (20, 20, 200)) if red_is_left else ((20, 20, 200), (200, 20, 20))
            picture[6:10, 2:6], picture[6:10, 10:14] = left, right
            way = -1.0 if (sentence == RED) == red_is_left else 1.0
            state = np.zeros((8, 3), np.float32)
            state[:, 0] = way * np.arange(8) / 8
            action = np.stack([np.full(8, way), np.zeros(8)], axis=1).astype(np.float32)
            frames = {STATE: state, ACTION: action, IMAGES + "eye": np.repeat(picture[None], 8, axis=0)}
            writer.add(encode(features, frames, sentence))
    writer.finish()
    return Dataset(folder)


def normalisers(dataset: Dataset) -> Normalisers:
    state, action = (Normaliser.from_stats(dataset.features[n].names or (), dataset.stats[n]) for n in (STATE, ACTION))
    eye = Normaliser.from_stats(CHANNELS, dataset.stats[IMAGES + "eye"])
    return Normalisers(state=state, action=action, images={"eye": eye})


def small_policy(language: int) -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(small_network(language))


def train_small(folder: Path, language: Path, steps: int) -> tuple[Policy, list[dict[str, float]]]:
    """Trains on the dataset in `folder`/data with scratch in `folder`/work."""
    reader = Reader.load(language)
    dataset = Dataset(folder / "data")
    policy = small_policy(reader.num_features)
    (folder / "work").mkdir(exist_ok=True)
    examples = Examples(dataset, reader, normalisers(dataset), chunk=4)
    log, _ = train(policy, examples, steps, batch=16, seed=3, work=folder / "work", progress=QUIET)
    return policy, log


def test_it_learns_a_tiny_set_and_the_sentence_decides(tmp_path: Path, language: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    policy, log = train_small(tmp_path, language, steps=300)
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]
    norm, reader = normalisers(dataset), Reader.load(language)
    pictures = norm.images["eye"].apply_to_pixels(torch.from_numpy(dataset.frames(IMAGES + "eye")))[[0, 16]]
    state = norm.state.apply(torch.zeros(2, 3))
    for sentence, ways in ((RED, [-1.0, 1.0]), (BLUE, [1.0, -1.0])):
        text, present = reader.read_all([sentence, sentence])
        tokens = policy.condition({"eye": pictures}, state, text, present)
        noise = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1))
        actions = norm.action.undo(policy.sample(tokens, noise, steps=5))
        assert np.allclose(actions[:, :, 0].numpy(), np.array(ways)[:, None], atol=0.3), sentence


def test_actions_after_an_episode_do_not_count(tmp_path: Path, language: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    examples = Examples(dataset, Reader.load(language), normalisers(dataset), chunk=4)
    batch = examples.batch(torch.tensor([0, 6, 7, 31]))
    assert batch.valid_BK.tolist() == [
        [True] * 4,
        [True, True, False, False],
        [True] + [False] * 3,
        [True] + [False] * 3,
    ]
    ends = normalisers(dataset).state.undo(batch.destination_B3)
    assert np.allclose(ends[:, 0], [-7 / 8, -7 / 8, -7 / 8, -7 / 8])


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _train_until_killed(folder: str, language: str) -> None:
    torch.set_num_threads(1)
    train_small(Path(folder), Path(language), steps=300)


def test_a_killed_training_ends_at_the_same_bits(tmp_path: Path, language: Path, one_thread: None) -> None:
    for name in ("whole", "killed"):
        write_dataset(tmp_path / name / "data")
    policy, log = train_small(tmp_path / "whole", language, steps=300)
    checkpoint = tmp_path / "killed" / "work" / "checkpoint.safetensors"
    arguments = (str(tmp_path / "killed"), str(language))
    process = multiprocessing.get_context("spawn").Process(target=_train_until_killed, args=arguments)
    process.start()
    deadline = time.monotonic() + 60
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    again, log_again = train_small(tmp_path / "killed", language, steps=300)
    assert log_again == log and len(log) == 6
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_padding_changes_nothing(language: Path) -> None:
    reader = Reader.load(language)
    policy = small_policy(reader.num_features)
    long = "恐れ入りますが、" + BLUE
    text, present = reader.read_all([RED, long])
    pictures, state = torch.randn(2, 3, 16, 16), torch.randn(2, 3)
    together = policy.condition({"eye": pictures}, state, text, present)
    alone = policy.condition(
        {"eye": pictures[:1]}, state[:1], reader.read(RED)[None], torch.ones(1, len(reader.read(RED)), dtype=torch.bool)
    )
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_the_reading_is_of_the_language_model(language: Path) -> None:
    reader = Reader.load(language)
    features = reader.read(RED)
    assert features.shape[1] == reader.num_features == DEPTHS * 32
    assert torch.equal(features, Reader.load(language).read(RED))
    assert not torch.allclose(features.mean(0), reader.read(BLUE).mean(0), atol=1e-3)
    with pytest.raises(KibanError, match="0 tokens; give 1 to 128"):
        reader.read("")
    with pytest.raises(KibanError, match="give 1 to 128"):
        reader.read("押して" * 200)


def test_sampling_follows_the_velocity(language: Path) -> None:
    """With an estimate that knows the action, Euler's steps end at it, however many they are."""
    policy = small_policy(12)
    action = torch.randn(2, 4, 2)
    policy.estimate = lambda noisy, time, tokens: action  # type: ignore[method-assign]
    for steps in (1, 3, 10):
        assert torch.allclose(policy.sample(torch.zeros(2, 1, 32), torch.randn(2, 4, 2), steps), action, atol=1e-5)


# Files and refusals


@pytest.fixture
def arm_policy(tmp_path: Path, embodiment: Embodiment, language: Path) -> Path:
    """An untrained policy for the tabletop arm, saved."""
    reader = Reader.load(language)

    def unit(names: tuple[str, ...]) -> Normaliser:
        return Normaliser(names=names, mean=(0.0,) * len(names), deviation=(1.0,) * len(names))

    network = PolicyConfig(
        cameras=tuple(CameraShape(name=c.name, height=c.height, width=c.width) for c in embodiment.cameras),
        state=len(embodiment.state_names),
        action=4,
        language=reader.num_features,
        width=32,
        layers=1,
        channels=8,
    )
    description = PolicyDescription(
        embodiment=embodiment.name,
        tasks=("reach",),
        language="sha256:0",
        network=network,
        normalisers=Normalisers(
            state=unit(embodiment.state_names),
            action=unit(embodiment.action.names),
            images={camera.name: unit(CHANNELS) for camera in embodiment.cameras},
        ),
    )
    folder = tmp_path / "policy"
    save_policy(Policy(network), description, folder)
    return folder


def test_a_saved_policy_acts_as_before(arm_policy: Path, embodiment: Embodiment, language: Path) -> None:
    observation, _ = TabletopEnv(embodiment, "reach").reset(seed=1)
    acted = []
    for _ in range(2):
        agent = Agent(*load_policy(arm_policy), Reader.load(language), embodiment)
        agent.reset(observation["instruction"], seed=5)
        acted.append(np.stack([agent.act(observation) for _ in range(6)]))
    assert acted[0].shape == (6, 4) and np.array_equal(acted[0], acted[1])
    agent.reset(observation["instruction"], seed=6)
    assert not np.array_equal(agent.act(observation), acted[0][0])


def test_a_policy_for_another_robot_is_refused(arm_policy: Path, embodiment: Embodiment, language: Path) -> None:
    policy, description = load_policy(arm_policy)
    reader = Reader.load(language)
    arm = embodiment.arms[0]
    renamed = (arm.joints[0].model_copy(update={"name": "waist"}), *arm.joints[1:])
    others = {
        r"state: the policy was trained on \(base_yaw, .*, the robot has \(waist, ": {
            "arms": (arm.model_copy(update={"joints": renamed}),)
        },
        r"action: the policy was trained on \(tool.dx, ": {
            "action": embodiment.action.model_copy(
                update={"names": ("tool.dy", "tool.dx", "tool.dz", "gripper.opening")}
            )
        },
        r"cameras: the policy was trained on \(front, wrist\), the robot has \(front\)": {
            "cameras": embodiment.cameras[:1]
        },
        r"camera 'wrist': gives 64x32 pixels, the policy was trained on 32x32": {
            "cameras": (embodiment.cameras[0], embodiment.cameras[1].model_copy(update={"width": 64}))
        },
    }
    for message, change in others.items():
        with pytest.raises(KibanError, match=message):
            Agent(policy, description, reader, embodiment.model_copy(update=change))


def test_damaged_policies_are_named(arm_policy: Path) -> None:
    path = arm_policy / DESCRIPTION
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"network": content["network"] | {"width": 48}}))
    with pytest.raises(KibanError, match="policy.safetensors: does not fit policy.json: size mismatch"):
        load_policy(arm_policy)
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "normalisers"}))
    with pytest.raises(KibanError, match="policy.json: normalisers: Field required"):
        load_policy(arm_policy)
    path.write_text(json.dumps(content))
    (arm_policy / WEIGHTS).unlink()
    with pytest.raises(KibanError, match="policy.safetensors: missing"):
        load_policy(arm_policy)
