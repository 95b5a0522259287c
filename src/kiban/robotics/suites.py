"""Suites: tasks that are demonstrated, trained and evaluated together, each an environment with an expert.

What a suite's environments have in common is `Environment`: all that recording, control and evaluation need to know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics import embodiment as embodiments
from kiban.robotics import meta_world, tasks
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.perturbations import NONE, Perturbation
from kiban.robotics.tasks import Wordings

Array = NDArray[np.float64]
Observation = dict[str, Any]
Renderer = Literal["rays", "gl"]


class Pictures(Protocol):
    def image(self, data: mujoco.MjData) -> NDArray[np.uint8]: ...


class Environment(Protocol):
    """A Gymnasium environment whose observations are pictures, `state` and `instruction`, and which has an expert."""

    embodiment: Embodiment
    instruction: str
    data: mujoco.MjData

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]: ...

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]: ...

    def expert_action(self) -> Array: ...

    def camera_for_film(self, pixels: int) -> Pictures: ...


@dataclass(frozen=True)
class Suite:
    """`groups`: the group of each task. `average` of a suite is that of its groups' success rates.

    `disturbance`: what each control period adds to the expert's disturbance in demonstrations, in the action's numbers.
    """

    name: str
    embodiment: str
    groups: dict[str, str]
    disturbance: float
    make: Callable[[Embodiment, str, Wordings, Perturbation, Renderer], Environment]

    def environment(
        self,
        task: str,
        wordings: Wordings = "train",
        perturbation: Perturbation = NONE,
        renderer: Renderer = "rays",
        embodiment: Embodiment | None = None,
    ) -> Environment:
        """Raises KibanError if the suite has no such task, or its simulator is not installed."""
        if task not in self.groups:
            raise KibanError(f"task '{task}': {self.name} has no such task; it has {', '.join(self.groups)}")
        robot = embodiment or embodiments.load(self.embodiment)
        return self.make(robot, task, wordings, perturbation, renderer)


def _tabletop(
    embodiment: Embodiment, task: str, wordings: Wordings, perturbation: Perturbation, renderer: Renderer
) -> Environment:
    if renderer != "rays":
        raise KibanError("the tabletop is drawn by rays alone; leave out --renderer")
    return TabletopEnv(embodiment, task, wordings, perturbation)


SUITES = {
    suite.name: suite
    for suite in (
        Suite("tabletop", "tabletop-arm", {task.name: task.doing for task in tasks.TASKS.values()}, 0.0015, _tabletop),
        Suite("mt50-ja", "meta-world", meta_world.tasks(), 0.05, meta_world.MetaWorldEnv),
    )
}


def suite(name: str) -> Suite:
    """Raises KibanError if there is none of that name."""
    if name not in SUITES:
        raise KibanError(f"suite '{name}': there is no such suite; use one of {', '.join(SUITES)}")
    return SUITES[name]
