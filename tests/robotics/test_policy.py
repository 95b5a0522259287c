"""The network, its training and its refusals."""

import copy
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
from kiban.robotics import train_policy
from kiban.robotics.action_expert import ExpertLayer, Prefix, PrefixLayer
from kiban.robotics.agent import (
    DESCRIPTION,
    WEIGHTS,
    Agent,
    Network,
    PolicyDescription,
    build,
    load_policy,
    save_policy,
)
from kiban.robotics.distil import distillation_loss, expert_parameters
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.examples import Batch, Examples, Frames, Instructions, Recorded, robots_of
from kiban.robotics.features import ACTION, IMAGES, STATE, Feature, encode, image
from kiban.robotics.language import DEPTHS, Reader
from kiban.robotics.lerobot_v3 import DatasetWriter
from kiban.robotics.normaliser import CHANNELS, Normaliser, Normalisers, shrunk
from kiban.robotics.policy import Policy
from kiban.robotics.policy_config import CameraShape, PolicyConfig, PolicyKind, RobotShape
from kiban.robotics.train_policy import train

QUIET = Progress(quiet=True)
TOOL = ("tool.x", "tool.y", "tool.z")
RED, BLUE = "赤い箱に手を伸ばして", "青い箱に手を伸ばして"


def small_network(language: int, robots: tuple[RobotShape, ...], kind: PolicyKind = "kiban") -> PolicyConfig:
    return PolicyConfig(
        kind=kind,
        robots=robots,
        language=language,
        chunk=4,
        width=32,
        layers=2,
        attention_heads=2,
        channels=8,
        named_heads=2,
        free_heads=1,
    )


def write_dataset(
    folder: Path,
    robot: str = "test",
    cameras: tuple[str, ...] = ("eye",),
    more: int = 0,
    sentences: tuple[str, ...] = (RED, BLUE),
) -> None:
    """The same picture of a red and a blue spot, left and right or right and left; the sentence says where to go.

    `more` numbers of the state and of the actions say nothing.
    """
    features = {
        STATE: Feature("float32", (3 + more,), (*TOOL, *(f"joint{i}" for i in range(more)))),
        ACTION: Feature("float32", (2 + more,), ("dx", "dy", *(f"turn{i}" for i in range(more)))),
        **{IMAGES + camera: image(16, 16) for camera in cameras},
    }
    writer = DatasetWriter(folder, features, fps=20, robot_type=robot)
    for red_is_left in (True, False):
        for sentence in sentences:
            picture = np.full((16, 16, 3), 90, np.uint8)
            left, right = ((200, 20, 20), (20, 20, 200)) if red_is_left else ((20, 20, 200), (200, 20, 20))
            picture[6:10, 2:6], picture[6:10, 10:14] = left, right
            way = -1.0 if (sentence == RED) == red_is_left else 1.0
            state = np.zeros((8, 3 + more), np.float32)
            state[:, 0] = way * np.arange(8) / 8
            action = np.zeros((8, 2 + more), np.float32)
            action[:, 0] = way
            pictures = {IMAGES + camera: np.repeat(picture[None], 8, axis=0) for camera in cameras}
            writer.add(encode(features, {STATE: state, ACTION: action, **pictures}, sentence))
    writer.finish()


def examples_of(
    folders: list[Path], reader: Reader, work: Path, held_out: float = 0.0
) -> tuple[Examples, tuple[RobotShape, ...], dict[str, Normalisers]]:
    recorded = [Recorded.read(folder, work / folder.name) for folder in folders]
    robots, normalisers = robots_of(recorded)
    frames = [Frames(one, normalisers[one.robot.name], 4, held_out, seed=0) for one in recorded]
    sentences = [sentence for one in recorded for sentence in one.sentences]
    return Examples(frames, Instructions(reader, sentences, learning=False)), robots, normalisers


def small(
    folders: list[Path], reader: Reader, work: Path, kind: PolicyKind = "kiban"
) -> tuple[Network, Examples, dict[str, Normalisers]]:
    examples, robots, normalisers = examples_of(folders, reader, work)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(small_network(reader.num_features, robots, kind)), examples, normalisers


def train_small(folder: Path, language: Path, steps: int) -> tuple[Network, list[dict[str, float]]]:
    """Trains on the dataset in `folder`/data with scratch in `folder`/work."""
    work = folder / "work"
    policy, examples, _ = small([folder / "data"], Reader.load(language), work)
    log, _ = train(policy, examples, steps, batch=16, seed=3, work=work, progress=QUIET)
    return policy, log


def ways(
    policy: Network, examples: Examples, normalisers: Normalisers, robot: str, reader: Reader
) -> dict[str, list[float]]:
    """How far the policy goes to the right, by sentence, with red at the left and with red at the right."""
    [batch] = [b for b in examples.batches(torch.arange(len(examples))) if b.robot == robot]
    images = {name: pixels[[0, len(pixels) // 2]] for name, pixels in batch.images.items()}
    state = normalisers.state.apply(torch.zeros(2, len(normalisers.state.names)))
    gone = {}
    for sentence in (RED, BLUE):
        text, present = reader.read_all([sentence, sentence])
        with torch.no_grad():
            prefix = policy.condition(robot, images, state, text, present)
        noise = torch.randn(2, 4, len(normalisers.action.names), generator=torch.Generator().manual_seed(1))
        gone[sentence] = normalisers.action.undo(policy.sample(prefix, noise, steps=5))[:, :, 0].mean(dim=1).tolist()
    return gone


RIGHT_WAYS = {RED: pytest.approx([-1.0, 1.0], abs=0.3), BLUE: pytest.approx([1.0, -1.0], abs=0.3)}


def test_it_learns_a_tiny_set_and_the_sentence_decides(tmp_path: Path, language: Path) -> None:
    write_dataset(tmp_path / "data")
    reader = Reader.load(language)
    policy, examples, normalisers = small([tmp_path / "data"], reader, tmp_path / "work")
    log, _ = train(policy, examples, 300, batch=16, seed=3, work=tmp_path / "work", progress=QUIET)
    assert log[-1]["loss"] < 0.2 * log[0]["loss"]
    assert ways(policy, examples, normalisers["test"], "test", reader) == RIGHT_WAYS


@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_the_baselines_learn_from_pictures(tmp_path: Path, language: Path, kind: PolicyKind) -> None:
    write_dataset(tmp_path / "data", sentences=(RED,))
    reader = Reader.load(language)
    policy, examples, normalisers = small([tmp_path / "data"], reader, tmp_path / "work", kind)
    train(policy, examples, 250, batch=16, seed=3, work=tmp_path / "work", progress=QUIET)
    left, right = ways(policy, examples, normalisers["test"], "test", reader)[RED]
    assert -2 < left < -0.5 and 0.5 < right < 2


def test_one_policy_learns_two_robots(tmp_path: Path, language: Path) -> None:
    """They differ in cameras, states and actions; the camera `eye` of either is seen by the same tower."""
    write_dataset(tmp_path / "one")
    write_dataset(tmp_path / "other", "other.arm", ("wrist", "eye"), more=2)
    reader = Reader.load(language)
    policy, examples, normalisers = small([tmp_path / "one", tmp_path / "other"], reader, tmp_path / "work")
    assert isinstance(policy, Policy) and sorted(policy.senses.towers) == ["eye", "wrist"]
    train(policy, examples, 400, batch=16, seed=3, work=tmp_path / "work", progress=QUIET)
    for robot in ("test", "other.arm"):
        assert ways(policy, examples, normalisers[robot], robot, reader) == RIGHT_WAYS, robot


def test_datasets_of_one_robot_must_agree(tmp_path: Path, language: Path) -> None:
    write_dataset(tmp_path / "one")
    write_dataset(tmp_path / "other", more=1)
    with pytest.raises(KibanError, match="'test' has 4 states, 3 actions, 20 fps, eye 16x16; in .*one it has 3 states"):
        examples_of([tmp_path / "one", tmp_path / "other"], Reader.load(language), tmp_path / "work")


def test_actions_after_an_episode_do_not_count(tmp_path: Path, language: Path) -> None:
    write_dataset(tmp_path / "data")
    examples, _, normalisers = examples_of([tmp_path / "data"], Reader.load(language), tmp_path / "work")
    [batch] = examples.batches(torch.tensor([0, 6, 7, 31]))
    assert batch.valid_BK.tolist() == [
        [True] * 4,
        [True, True, False, False],
        [True] + [False] * 3,
        [True] + [False] * 3,
    ]
    ends = normalisers["test"].state.undo(batch.destination_BD)
    assert np.allclose(ends[:, 0], [-7 / 8, -7 / 8, -7 / 8, -7 / 8])


def test_held_out_episodes_are_never_trained_on(tmp_path: Path, language: Path) -> None:
    write_dataset(tmp_path / "data")
    examples, _, _ = examples_of([tmp_path / "data"], Reader.load(language), tmp_path / "work", held_out=0.25)
    [trained], [kept_back] = examples.batches(torch.arange(len(examples))), examples.held_out(100)
    assert (len(trained.state_BS), len(kept_back.state_BS)) == (24, 8)

    def frames(batch: Batch) -> set[tuple[float, ...]]:
        """An episode's pictures, sentence and states together are no other's."""
        what = torch.cat([batch.images["eye"].flatten(1), batch.text_BTF.sum(dim=1), batch.state_BS], dim=1)
        return {tuple(row) for row in what.tolist()}

    assert len(frames(trained)) == 24 and not frames(trained) & frames(kept_back)


def test_large_pictures_are_shrunk() -> None:
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(1, 5, 7, 3)
    small_ones = shrunk(pixels, 2)
    assert small_ones.shape == (1, 2, 3, 3)
    assert small_ones[0, 1, 2, 0] == round(pixels[0, 2:4, 4:6, 0].mean())
    assert shrunk(pixels, 1) is pixels


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _train_until_killed(folder: str, language: str) -> None:
    torch.set_num_threads(1)
    train_policy.SAVE_EVERY = 20  # not where a row of the log ends
    train_small(Path(folder), Path(language), steps=120)


def test_a_killed_training_ends_at_the_same_bits(tmp_path: Path, language: Path, one_thread: None) -> None:
    for name in ("whole", "killed"):
        write_dataset(tmp_path / name / "data")
    policy, log = train_small(tmp_path / "whole", language, steps=120)
    checkpoint = tmp_path / "killed" / "work" / "checkpoint.safetensors"
    arguments = (str(tmp_path / "killed"), str(language))
    process = multiprocessing.get_context("spawn").Process(target=_train_until_killed, args=arguments)
    process.start()
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    again, log_again = train_small(tmp_path / "killed", language, steps=120)
    assert log_again == log and len(log) == 3
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def untrained(language: int) -> Policy:
    camera = CameraShape(name="eye", height=16, width=16)
    robot = RobotShape(name="test", fps=20, cameras=(camera,), state=3, action=2, destination=(0, 1, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(small_network(language, (robot,)))


def test_padding_changes_nothing(language: Path) -> None:
    reader = Reader.load(language)
    policy = untrained(reader.num_features)
    long = "恐れ入りますが、" + BLUE
    text, present = reader.read_all([RED, long])
    pictures, state = torch.randn(2, 3, 16, 16), torch.randn(2, 3)
    together = policy.condition("test", {"eye": pictures}, state, text, present)
    only = reader.read(RED)[None], torch.ones(1, len(reader.read(RED)), dtype=torch.bool)
    alone = policy.condition("test", {"eye": pictures[:1]}, state[:1], *only)
    for (keys, values), (keys_alone, values_alone) in zip(together.keys_values, alone.keys_values, strict=True):
        assert torch.allclose(keys[:1], keys_alone, atol=1e-5)
        assert torch.allclose(values[:1], values_alone, atol=1e-5)


def test_the_prefix_cache_is_attention_over_both_streams() -> None:
    """One sequence of both, in which the prefix may not look at the actions, gives what the cache gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prefix, expert = PrefixLayer(16, 2, last=False), ExpertLayer(16, 2)
        torch.nn.init.normal_(expert.adapt.weight, std=0.3)
        tokens, actions, time_BW = torch.randn(3, 5, 16), torch.randn(3, 4, 16), torch.randn(3, 16)
    after, keys_values = prefix(tokens)
    acted = expert(actions, time_BW, keys_values)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (16,))

    adapted = expert.adapt(time_BW)[:, None].chunk(6, dim=-1)
    of_prefix = torch.cat([prefix.query(norm(tokens)), prefix.key_value(norm(tokens))], dim=-1)
    of_actions = expert.query_key_value(norm(actions) * (1 + adapted[1]) + adapted[0])
    query, key, value = (
        part.unflatten(-1, (2, 8)).transpose(1, 2)
        for part in torch.cat([of_prefix, of_actions], dim=1).chunk(3, dim=-1)
    )
    scores = query @ key.transpose(-1, -2) / 8**0.5
    scores[:, :, :5, 5:] = -torch.inf
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
    seen = tokens + prefix.out(mixed[:, :5])
    assert torch.allclose(after, seen + prefix.mlp(norm(seen)), atol=1e-5)
    moved = actions + (1 + adapted[2]) * expert.out(mixed[:, 5:])
    moved = moved + (1 + adapted[5]) * expert.mlp(norm(moved) * (1 + adapted[4]) + adapted[3])
    assert torch.allclose(acted, moved, atol=1e-5)


def test_the_reading_is_of_the_language_model(language: Path) -> None:
    reader = Reader.load(language)
    features = reader.read(RED)
    assert features.shape[1] == reader.num_features == DEPTHS * 32
    assert torch.equal(features, Reader.load(language).read(RED))
    assert not torch.allclose(features.mean(0), reader.read(BLUE).mean(0), atol=1e-3)
    text, present = reader.study([RED, "恐れ入りますが、" + BLUE])
    assert text.requires_grad and torch.allclose(text[0, present[0]], features, atol=1e-4)
    with pytest.raises(KibanError, match="0 tokens; give 1 to 128"):
        reader.read("")
    with pytest.raises(KibanError, match="give 1 to 128"):
        reader.read("押して" * 200)


def test_sampling_follows_the_velocity() -> None:
    """With an estimate that knows the action, Euler's steps end at it, however many they are."""
    policy = untrained(12)
    action = torch.randn(2, 4, 2)
    policy.estimate = lambda noisy, time, prefix: action  # type: ignore[method-assign]
    for steps in (1, 3, 10):
        ended = policy.sample(Prefix("test", (), torch.zeros(2, 32)), torch.randn(2, 4, 2), steps)
        assert torch.allclose(ended, action, atol=1e-5)


def test_distilled_steps_do_what_many_did() -> None:
    """Where demonstrations go to either side, one step ends in the middle; once distilled, it goes where ten did."""
    policy = untrained(12)
    prefix = Prefix("test", tuple((torch.zeros(64, 2, 1, 16),) * 2 for _ in range(2)), torch.zeros(64, 32))
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    valid, nowhere = torch.ones(64, 4, dtype=torch.bool), torch.zeros(64, 3)
    for _ in range(200):
        sides = 2.0 * torch.randint(2, (64, 1, 1), generator=generator) - 1
        loss = policy.loss(prefix, sides.expand(64, 4, 2), valid, nowhere, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    teacher = copy.deepcopy(policy).requires_grad_(False)
    noise = torch.randn(64, 4, 2, generator=torch.Generator().manual_seed(1))
    wanted = teacher.sample(prefix, noise, 10)
    assert 0.8 < wanted.abs().mean() < 1.2
    student = torch.optim.AdamW([parameter for _, parameter in expert_parameters(policy)], 2e-3)
    for _ in range(150):
        fresh = torch.randn(64, 4, 2, generator=generator)
        student.zero_grad()
        distillation_loss(policy, teacher, prefix, 1, fresh, valid).backward()
        student.step()
    before, after = ((net.sample(prefix, noise, 1) - wanted).square().mean() for net in (teacher, policy))
    assert before > 0.7 and after < 0.3 * before


# Files and refusals


@pytest.fixture
def arm_policy(tmp_path: Path, embodiment: Embodiment, language: Path) -> Path:
    """An untrained policy for the tabletop arm, saved."""
    reader = Reader.load(language)

    def unit(names: tuple[str, ...]) -> Normaliser:
        return Normaliser(names=names, mean=(0.0,) * len(names), deviation=(1.0,) * len(names))

    robots = (RobotShape.of(embodiment),)
    network = PolicyConfig(robots=robots, language=reader.num_features, width=32, layers=1, channels=8)
    normalisers = Normalisers(
        state=unit(embodiment.state_names),
        action=unit(embodiment.action.names),
        images={camera.name: unit(CHANNELS) for camera in embodiment.cameras},
    )
    description = PolicyDescription(
        tasks=("reach",), language="sha256:0", network=network, normalisers={embodiment.name: normalisers}
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
        "control period 0.1 s: the policy was trained on 20 actions a second": {"control_period": 0.1},
        "robot 'other-arm': the policy was trained on tabletop-arm": {"name": "other-arm"},
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
    path.write_text(json.dumps(content | {"normalisers": {"another-arm": content["normalisers"]["tabletop-arm"]}}))
    with pytest.raises(KibanError, match="policy.json: it: Value error, robot 'tabletop-arm' has no normaliser"):
        load_policy(arm_policy)
    other = copy.deepcopy(content)
    other["normalisers"]["tabletop-arm"]["images"].pop("wrist")
    path.write_text(json.dumps(other))
    with pytest.raises(KibanError, match="normaliser of robot 'tabletop-arm' is not for its state, action and cameras"):
        load_policy(arm_policy)
    path.write_text(json.dumps(content))
    (arm_policy / WEIGHTS).unlink()
    with pytest.raises(KibanError, match="policy.safetensors: missing"):
        load_policy(arm_policy)
