"""A policy server in this process, and a policy for it."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kiban.robotics.agent import Agent, PolicyDescription, save_policy
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.language import DEPTHS, Reader
from kiban.robotics.normaliser import CHANNELS, Normaliser, Normalisers
from kiban.robotics.policy import Policy
from kiban.robotics.policy_config import PolicyConfig, RobotShape
from kiban.robotics.server import ChunkPolicy, PolicyServer

SENTENCE = "赤い箱を奥へ押してください。"


def untrained(robot: Embodiment, language: Path, folder: Path) -> Agent:
    """A policy that has learned nothing, saved in `folder` too."""

    def plain(names: tuple[str, ...]) -> Normaliser:
        return Normaliser(names=names, mean=(0.0,) * len(names), deviation=(1.0,) * len(names))

    network = PolicyConfig(
        robots=(RobotShape.of(robot),),
        language=DEPTHS * 32,
        width=32,
        layers=1,
        attention_heads=2,
        channels=8,
        named_heads=2,
        free_heads=1,
    )
    normalisers = Normalisers(
        state=plain(robot.state_names),
        action=plain(robot.action.names),
        images={camera.name: plain(CHANNELS) for camera in robot.cameras},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Policy(network).eval()
    description = PolicyDescription(
        tasks=("push",), language="sha256:none", network=network, normalisers={robot.name: normalisers}
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(policy, description, folder)
    return Agent(policy, description, Reader.load(language), robot)


class Slow:
    """A policy that takes its time, and remembers whom it worked for."""

    def __init__(self, agent: ChunkPolicy, seconds: float) -> None:
        self._agent, self._seconds = agent, seconds
        self.instructions: list[str] = []

    @property
    def embodiment(self) -> Embodiment:
        return self._agent.embodiment

    def reset(self, instruction: str, seed: int) -> None:
        self.instructions.append(instruction)
        self._agent.reset(instruction, seed)

    def chunk(self, observation: dict[str, Any]) -> NDArray[Any]:
        time.sleep(self._seconds)
        return self._agent.chunk(observation)


def look(robot: Embodiment, seed: int = 0) -> dict[str, Any]:
    """An observation, as our own robots name it."""
    rng = np.random.default_rng(seed)
    pictures = {c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in robot.cameras}
    return {**pictures, "state": rng.normal(size=len(robot.state_names)).astype(np.float32)}


@contextmanager
def serving(policy: ChunkPolicy, port: int = 0, **options: Any) -> Iterator[str]:
    """The address of a server that serves `policy` while it is entered."""
    server, listening = PolicyServer(policy, **options), threading.Event()
    held: dict[str, Any] = {}

    async def run() -> None:
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()

        def ready(port: int) -> None:
            held["port"] = port
            listening.set()

        await server.run("127.0.0.1", port, held["stop"], ready)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert listening.wait(10)
    try:
        yield f"127.0.0.1:{held['port']}"
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join(20)
        assert not thread.is_alive()
