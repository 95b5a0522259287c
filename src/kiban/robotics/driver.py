"""The robot's side of a policy on the network: it asks ahead, and gives one safe command a control period.

Everything passes the safety filter here, where no network is between it and the motors. If no actions come the robot
brakes at once (the filter's watchdog); if none come for GIVE_UP seconds it stops until somebody releases it.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.client import Answer, AnswerError, SilenceError
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.safety import Command, SafetyFilter

GIVE_UP = 1.0  # s without actions, after which the stop latches: a robot must not wake up long after

# (observation, what is left of the actions, how many of them will have been carried out) -> the next ones; raises
# AnswerError or SilenceError
Ask = Callable[[Mapping[str, Any], NDArray[np.float64] | None, int], Answer]


def state_of(embodiment: Embodiment, joints: NDArray[Any], grippers: NDArray[Any]) -> NDArray[np.float32]:
    """Proprioception in the order of the embodiment's `state_names`, the tools' places by forward kinematics.

    `joints` of all arms in order, rad; `grippers`: an opening for each arm, m.
    """
    state: list[float] = []
    first = 0
    for arm, opening in zip(embodiment.arms, grippers, strict=True):
        of_arm = np.asarray(joints[first : first + len(arm.joints)], np.float64)
        first += len(arm.joints)
        state += [*of_arm, float(opening), *Kinematics(arm).tool(of_arm)]
    return np.array(state, np.float32)


def warm_up(embodiment: Embodiment) -> None:
    """Compiles what the filter needs, which takes seconds the first time on a machine: before anything moves."""
    posture = np.array([angle for arm in embodiment.arms for angle in arm.posture])
    openings = np.array([arm.gripper.opening[1] for arm in embodiment.arms])
    trial = SafetyFilter(embodiment)
    trial.reset(posture, openings)
    trial.measured(posture, np.zeros(len(posture)))
    trial.command(np.zeros(len(embodiment.action.names)))
    trial.command(None)
    state_of(embodiment, posture, openings)


@dataclass(frozen=True)
class _Plan:
    """Actions [K, A], the first of them for `start` on the clock."""

    actions: NDArray[np.float64]
    start: float


class Driver:
    """Call `step` once a control period, from one thread.

    `ask` works in a thread of its own (`PolicyClient.infer`, with the instruction bound). It is asked anew when
    `execute` of a plan's actions are carried out; what came meanwhile of the old plan is carried on. `say` gets a line
    when something is wrong.
    """

    def __init__(
        self,
        ask: Ask,
        safety: SafetyFilter,
        execute: int,
        say: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.safety, self._ask, self._execute, self._say, self._clock = safety, ask, execute, say, clock
        self._period = safety.embodiment.control_period
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="asking")
        self._plan: _Plan | None = None
        self._asking: Future[Answer] | None = None
        self._asked_at = 0.0
        self._moved = False  # whether an action was carried out since it was asked
        self._latest = 0.1  # s that the last answer took
        self._alive: float | None = None  # when there last was an action, or the first step
        self._said = ""

    def step(self, observation: Mapping[str, Any] | None, joints: Any = None, efforts: Any = None) -> Command:
        """The command for the next control period.

        `observation` is None while a sensor is silent: nothing is asked then. `joints` and `efforts` are what the robot
        measures (see `SafetyFilter.measured`); None if it does not tell.
        """
        now = self._clock()
        self._alive = self._alive or now
        self._take(now)
        if joints is not None:
            self.safety.measured(joints, efforts)
        action, index = self._action(now)
        if action is not None:
            self._alive, self._moved = now, True
        elif now - self._alive > GIVE_UP and self.safety.stopped is None:
            self.safety.stop(f"no actions for {GIVE_UP:g} s")
            self._tell(f"the robot is stopped: {self.safety.stopped}")
        ahead = self._latest / self._period + 1  # periods until an answer is there
        due = action is None or index + ahead >= self._execute
        if observation is not None and due and self._asking is None and self.safety.stopped is None:
            self._asked_at, self._moved = now, action is not None
            left = self._plan.actions[index:] if self._plan is not None and action is not None else None
            self._asking = self._worker.submit(self._ask, dict(observation), left, math.ceil(ahead - 1))
        return self.safety.command(action)

    def _action(self, now: float) -> tuple[NDArray[np.float64] | None, int]:
        """The plan's action for now, if it reaches so far, and which of them it is."""
        if self._plan is None:
            return None, 0
        index = int((now - self._plan.start) / self._period + 0.5)
        return (self._plan.actions[index], index) if index < len(self._plan.actions) else (None, index)

    def _take(self, now: float) -> None:
        """What was asked, once it is answered."""
        if self._asking is None or not self._asking.done():
            return
        asking, self._asking = self._asking, None
        try:
            answer = asking.result()
        except (AnswerError, SilenceError) as error:
            self._tell(str(error))
            return
        except KibanError as error:  # what is no answer at all
            self._tell(str(error))
            self.safety.stop("the policy server does not speak the protocol")
            return
        self._latest, self._said = now - self._asked_at, ""
        # What the old plan did since then, the new one has foreseen; if the robot stood, it begins at its beginning.
        self._plan = _Plan(answer.actions, self._asked_at if self._moved else now)

    def _tell(self, line: str) -> None:
        """Once, however often it is so."""
        if line != self._said:
            self._said = line
            self._say(line)

    def restart(self, posture: Any, grippers: Any, reason: str) -> None:
        """After a stop, from where the robot is now: a plan of before is thrown away.

        Raises:
            KibanError: if it is not safe there, or no reason is given.
        """
        self.safety.release(reason)
        self.safety.reset(posture, grippers)
        self._plan, self._asking, self._alive = None, None, None

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)
