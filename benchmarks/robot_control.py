"""What safety and real time cost: the filter by action, and the loop at its control period with a policy that plans.

    python benchmarks/robot_control.py
    python benchmarks/robot_control.py --actions 2000 --seconds 5     # a glance

The policy has the default sizes and random weights: its actions mean nothing, its time does. Guided with the denoiser's
Jacobian and by the shortcut without it, in alternating rounds, beside chunks that are not guided.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, circumstances, head, median, table, write
from torch import Tensor

from kiban.robotics.agent import Agent, PolicyDescription
from kiban.robotics.chunking import RealTimeAgent
from kiban.robotics.control import ControlLoop
from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.normaliser import CHANNELS, Normaliser, Normalisers
from kiban.robotics.policy import Policy
from kiban.robotics.policy_config import PolicyConfig, RobotShape
from kiban.robotics.safety import SafetyFilter
from kiban.robotics.scene import Thing
from kiban.robotics.simulated import SimulatedRobot

ROBOTS = ("tabletop-arm", "bimanual-arm", "meta-world")
FEATURES, TOKENS = 256, 12  # of the sentence


class Sentence:
    """Stands for the language model, which reads once an episode."""

    num_features = FEATURES

    def read(self, text: str) -> Tensor:
        return torch.randn(TOKENS, FEATURES, generator=torch.Generator().manual_seed(0))


def untrained(robot: Embodiment) -> Agent:
    def plain(names: tuple[str, ...], deviation: float = 1.0) -> Normaliser:
        return Normaliser(names=names, mean=(0.0,) * len(names), deviation=(deviation,) * len(names))

    network = PolicyConfig(robots=(RobotShape.of(robot),), language=FEATURES)
    normalisers = Normalisers(
        state=plain(robot.state_names),
        action=plain(robot.action.names, 0.01),
        images={camera.name: plain(CHANNELS) for camera in robot.cameras},
    )
    description = PolicyDescription(tasks=(), language="none", network=network, normalisers={robot.name: normalisers})
    torch.manual_seed(0)
    agent = Agent(Policy(network).eval(), description, Sentence(), robot)  # type: ignore[arg-type]
    agent.reset("赤い立方体を押してください。", seed=0)
    return agent


def filter_times(robot: Embodiment, actions: int) -> dict[str, float]:
    """Microseconds an action: drifts of ten at up to twice the bounds, along walls and into corners."""
    filtered = SafetyFilter(robot)
    filtered.reset(*robot.postures)
    rng = np.random.default_rng(0)
    bound = np.array(robot.action.upper)
    taken = []
    for action in np.repeat(rng.uniform(-2, 2, (actions // 10, len(bound))) * bound, 10, axis=0):
        begun = time.perf_counter()
        filtered.command(action)
        taken.append(1e6 * (time.perf_counter() - begun))
    return {"p50_us": float(np.median(taken)), "p99_us": float(np.quantile(taken, 0.99)), "actions": len(taken)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, default=20_000, help="for the filter, of each robot")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the loop, in each round of each way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    filters = {name: filter_times(load(name), arguments.actions) for name in ROBOTS}
    robot = load("tabletop-arm")
    agent = untrained(robot)
    ways: dict[str, dict[str, bool]] = {"jacobian": {}, "shortcut": {"jacobian": False}, "unguided": {"guided": False}}
    loops: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            things = [Thing("red", "cube", 0.45, 0.0, 0.0)]
            loop = ControlLoop(SimulatedRobot(robot, things), RealTimeAgent(agent, execute=4, **way))
            loops[name].append(asdict(loop.run(arguments.seconds)))
            print(name, loops[name][-1], flush=True)
    found = circumstances() | {
        "task": "robot_control",
        "threads": arguments.threads,
        "parameters": sum(p.numel() for p in agent.policy.parameters()),
        "filter": filters,
        "loop": loops,
    }
    lines = head("Safety and real time", found)
    lines += ["Microseconds that the safety filter takes an action, drifts into walls and corners:", ""]
    rows = [[name, f"{f['p50_us']:.0f}", f"{f['p99_us']:.0f}", str(f["actions"])] for name, f in filters.items()]
    lines += table(["robot", "p50", "p99", "actions"], rows)
    period = 1e3 * robot.control_period
    lines += [
        f"The loop with a policy of {found['parameters'] / 1e6:.1f}M parameters on {arguments.threads} threads, the "
        f"simulator in the same process; control period {period:g} ms; medians of {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s; milliseconds:",
        "",
    ]

    def middle(reports: list[dict[str, Any]], key: str, index: int) -> str:
        return f"{1e3 * median([report[key][index] for report in reports]):.1f}"

    lines += table(
        [
            "chunks",
            "a chunk, p50",
            "p99",
            "between commands, p50",
            "p99",
            "loop's work, p99",
            "misses",
            "starved",
            "ticks",
        ],
        [
            [
                name,
                *(middle(reports, "inference", i) for i in (0, 1)),
                *(middle(reports, "period", i) for i in (0, 1)),
                middle(reports, "work", 1),
                *(str(sum(report[key] for report in reports)) for key in ("misses", "starved", "ticks")),
            ]
            for name, reports in loops.items()
        ],
    )
    print(write("robot_control", found, "\n".join(lines), arguments.results).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
