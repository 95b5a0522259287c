"""The real-time loop: it drives a robot, real or simulated, at its control period, by chunks of actions that are
computed meanwhile. Every action passes the safety filter.

Three threads: the loop's, which keeps time; one for the robot, whose driver may block; one that plans. Each tick takes
the robot's answer to the last command, chooses the action that is due, has it filtered, and sends it.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.safety import Command, SafetyFilter

Array = NDArray[np.float64]
Observation = dict[str, Any]

FIRST_ANSWER, FIRST_PLAN = 10.0, 120.0  # s: cameras and compilers warm up while the robot stands still
LATE = 0.05  # of a period: a tick later than that moves the next one on, so that commands do not come too fast
MISSED = 0.5  # of a period: a tick later than that is a miss
SLOW_TICKS = 10  # after a miss, with on_miss = "slow"
REST = 10.0  # s that braking to rest may take
REMEMBERED = 10  # inference times that the next delay is judged by


class Robot(Protocol):
    """What drives a robot. `observe` gives a picture a camera (uint8 [height, width, 3]), `state` (the embodiment's
    `state_names`) and, if it measures them, `efforts` of the joints in N m. `send` sets the motors' targets, and
    returns. `halt` is the robot's own stop: it is called when nothing else answers, from another thread."""

    embodiment: Embodiment

    def observe(self) -> Observation: ...

    def send(self, command: Command) -> None: ...

    def halt(self) -> None: ...


class Planner(Protocol):
    """Plans ahead. `chunk` gives actions [K, A], the first for now; `last` is what is left of the chunk that is being
    carried out, `delay` how many of it will have been when this is done. After `execute` actions it plans again."""

    execute: int

    def chunk(self, observation: Observation, last: Array | None, delay: int) -> Array: ...


@dataclass(frozen=True)
class Report:
    """How a run went; times in s, p50 and p99.

    `stopped` says why it ended before its time. `misses`: ticks at which the robot had not answered yet or that came
    late; `starved`: ticks without an action, the next chunk not being there. `delay`: the most actions that were
    carried out while a chunk was computed.
    """

    ticks: int
    stopped: str | None
    period: tuple[float, float]  # between commands
    work: tuple[float, float]  # of the loop in a tick
    answer: tuple[float, float]  # of the robot: sending and observing
    inference: tuple[float, float]
    chunks: int
    delay: int
    misses: int
    starved: int
    interventions: dict[str, int]


class _Worker:
    """A thread that does one job after the other. It is left behind if it blocks for ever."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, function, arguments))
        return future

    def close(self) -> None:
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, arguments = job
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # told to whoever waits for it
                future.set_exception(error)


class ControlLoop:
    """Drives `robot` by what `planner` plans.

    `on_miss`: after a missed tick `hold` brakes for a tick, `slow` goes on at half the speed for ten. `log` is the
    safety filter's. `stop` may be called from any thread.
    """

    def __init__(
        self, robot: Robot, planner: Planner, log: Path | None = None, on_miss: Literal["hold", "slow"] = "hold"
    ) -> None:
        self.robot, self.planner, self.on_miss = robot, planner, on_miss
        self.embodiment = robot.embodiment
        self.safety = SafetyFilter(self.embodiment, log)
        sizes = [self.embodiment.action_size(arm) for arm in self.embodiment.arms]
        self._displacement = np.ones(sum(sizes), bool)
        self._displacement[np.cumsum(sizes) - 1] = False  # the grippers' numbers are no displacements

    def stop(self, reason: str) -> None:
        """The emergency stop: the robot brakes and holds, the run ends. It latches in `safety` until released there."""
        self.safety.stop(reason)

    def run(self, seconds: float, until: Callable[[Observation], bool] = lambda observation: False) -> Report:
        """Runs for `seconds`, or `until` an observation is enough; then brakes to rest.

        A robot that does not answer within the embodiment's `stale_after`, a driver or a planner that fails, and an
        emergency stop end it: `Report.stopped` says so in one line.

        Raises:
            KibanError: if the robot gives no first answer, or is not safe to start, or no first chunk can be had.
        """
        driver, mind = _Worker(f"{self.embodiment.name} driver"), _Worker("planner")
        run = _Run(self, driver, mind)
        try:
            run.begin()
            run.loop(seconds, until)
        finally:
            try:
                run.end()
            finally:
                driver.close()
                mind.close()
        return run.report()


class _Run:
    """One run of a loop: what it knows from tick to tick."""

    def __init__(self, loop: ControlLoop, driver: _Worker, mind: _Worker) -> None:
        self.robot, self.planner, self.safety = loop.robot, loop.planner, loop.safety
        self.embodiment, self.on_miss, self._displacement = loop.embodiment, loop.on_miss, loop._displacement
        self.driver, self.mind = driver, mind
        self.period = self.embodiment.control_period
        self.exchange: Future[Observation] | None = None  # the robot's answer to the last command
        self.asked_at = 0.0
        self.thinking: Future[Array] | None = None
        self.plan, self.place, self.plan_from = np.empty((0, 0)), 0.0, 0.0
        self.began: tuple[int, float] = (0, 0.0)  # the place in the plan and the time when planning began
        self.slow = 0
        self.silent = self.stale = False
        self.ticks = self.misses = self.starved = self.chunks = self.delay = 0
        self.inference: deque[float] = deque(maxlen=REMEMBERED)
        self.times: dict[str, list[float]] = {"sent": [], "work": [], "answer": [], "inference": []}

    # Before and after

    def begin(self) -> None:
        name = self.embodiment.name
        try:
            observation = self.driver.submit(self.robot.observe).result(FIRST_ANSWER)
        except FutureTimeout:
            raise KibanError(
                f"{name}: gives no observation within {FIRST_ANSWER:g} s; is it on and connected?"
            ) from None
        except Exception as error:
            raise KibanError(f"{name}: cannot be observed: {_line(error)}") from error
        self.safety.reset(*posture_of(self.embodiment, observation["state"]))
        for _ in range(2):  # the first compiles, allocates and warms up; the second tells how long one takes
            begun = time.monotonic()
            try:
                self.plan = self._checked(self.mind.submit(self.planner.chunk, observation, None, 0).result(FIRST_PLAN))
            except FutureTimeout:
                raise KibanError(f"{name}: no first chunk of actions within {FIRST_PLAN:g} s") from None
            except KibanError:
                raise
            except Exception as error:
                raise KibanError(f"{name}: no first chunk of actions: {_line(error)}") from error
            self.inference.append(time.monotonic() - begun)
        self.inference.popleft()
        self.exchange, self.asked_at = _done(observation), time.monotonic()
        self.plan_from = self.asked_at

    def end(self) -> None:
        """Brakes to rest, if the robot still listens."""
        if not self.safety.begun or self.silent or self.exchange is None:
            return
        last: Command | None = None
        deadline = time.monotonic() + REST
        while time.monotonic() < deadline:
            command = self.safety.brake()
            if last is not None and np.array_equal(command.joints, last.joints):
                return
            last = command
            try:
                self.exchange.result(self.embodiment.stale_after)
                self.exchange = self.driver.submit(self._exchange, command)
            except Exception as error:
                self._silenced(error)
                return
            time.sleep(self.period)

    # The loop

    def loop(self, seconds: float, until: Callable[[Observation], bool]) -> None:
        due = time.monotonic()
        for _ in range(math.ceil(seconds / self.period)):
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            start = time.monotonic()
            missed = start - due > MISSED * self.period
            observation, late = self._answer()
            if observation is None:
                return
            missed = missed or late
            self.misses += missed
            now = time.monotonic()
            self._measure(observation)
            self._take_plan()
            self._begin_plan(observation, now)
            action, made_at, share = self._action(missed, now)
            command = self.safety.command(action, made_at)
            self.stale = "stale" in command.reasons  # then the plan is old, and what it said was not done
            self.place += 0.0 if self.stale else share
            self.asked_at = time.monotonic()
            self.exchange = self.driver.submit(self._exchange, command)
            self.times["sent"].append(self.asked_at)
            self.times["work"].append(self.asked_at - now)
            self.ticks += 1
            if self.safety.stopped is not None or until(observation):
                return
            # Commands come no faster than the control period, or the robot would go faster than its limits.
            due = due + self.period if now - due <= LATE * self.period else now + self.period

    def _answer(self) -> tuple[Observation | None, bool]:
        """The robot's answer to the last command, and whether it came late; None if it does not come at all."""
        assert self.exchange is not None
        late = not self.exchange.done()
        try:
            left = self.asked_at + self.embodiment.stale_after - time.monotonic()
            return self.exchange.result(max(left, self.period)), late  # the loop itself may have been held up
        except Exception as error:
            self._silenced(error)
            return None, True

    def _exchange(self, command: Command) -> Observation:
        begun = time.monotonic()
        self.robot.send(command)
        observation = self.robot.observe()
        self.times["answer"].append(time.monotonic() - begun)
        return observation

    def _silenced(self, error: Exception) -> None:
        """The robot does not answer, or its driver failed: its own stop, from another thread, and an end."""
        self.silent = True
        if isinstance(error, FutureTimeout):
            why = f"stopped answering: nothing for {time.monotonic() - self.asked_at:.2f} s after a command"
        else:
            why = f"its driver failed: {_line(error)}"
        halted = _Worker("halt").submit(self.robot.halt)
        try:
            halted.result(self.embodiment.stale_after)
            what = "halted"
        except FutureTimeout:
            what = "does not answer to halt either: cut its power"
        except Exception as failure:
            what = f"could not be halted ({_line(failure)}): cut its power"
        self.safety.stop(f"{self.embodiment.name} {why}; {what}")

    def _measure(self, observation: Observation) -> None:
        try:
            joints, _ = posture_of(self.embodiment, observation["state"])
        except (KibanError, KeyError) as error:
            self.safety.stop(f"{self.embodiment.name}: no proper observation: {_line(error)}")
            return
        self.safety.measured(joints, observation.get("efforts"))

    # Planning

    def _checked(self, chunk: Any) -> Array:
        """Raises KibanError unless it is a chunk of actions for this robot; what they say is the filter's affair."""
        actions, size = np.asarray(chunk, np.float64), len(self._displacement)
        if actions.ndim != 2 or actions.shape[1] != size or not len(actions):
            raise KibanError(f"a chunk has shape {actions.shape}, not (actions, {size})")
        return actions

    def _take_plan(self) -> None:
        if self.thinking is None or not self.thinking.done():
            return
        place, begun = self.began
        try:
            self.plan = self._checked(self.thinking.result())
        except Exception as error:
            self.safety.stop(f"the planner failed: {_line(error)}")
        else:
            took = time.monotonic() - begun
            self.place -= place  # the new chunk's first action is for when planning began
            self.plan_from = begun
            self.inference.append(took)
            self.times["inference"].append(took)
            self.delay = max(self.delay, math.ceil(self.place))
            self.chunks += 1
        self.thinking = None

    def _begin_plan(self, observation: Observation, now: float) -> None:
        if self.thinking is not None or (self.place < self.planner.execute and not self.stale):
            return
        place = min(int(self.place), len(self.plan))
        delay = max(1, math.ceil(max(self.inference) / self.period))
        self.began = (place, now)
        last = self.plan[place:].copy()
        self.thinking = self.mind.submit(self.planner.chunk, observation, last if len(last) else None, delay)

    def _action(self, missed: bool, now: float) -> tuple[Array | None, float, float]:
        """The action that is due, when it was, and which share of it this is; None to brake."""
        if missed and self.on_miss == "slow":
            self.slow = SLOW_TICKS
        if missed and self.on_miss == "hold":
            return None, now, 0.0
        if int(self.place) >= len(self.plan):
            self.starved += 1
            return None, now, 0.0
        action, share = self.plan[int(self.place)].copy(), 0.5 if self.slow else 1.0
        made_at = min(self.plan_from + self.place * self.period, now)
        action[self._displacement] *= share  # each action in two halves
        self.slow = max(self.slow - 1, 0)
        self.plan_from += (1.0 - share) * self.period  # what is carried out slowly is due later
        return action, made_at, share

    def report(self) -> Report:
        def percentiles(values: list[float]) -> tuple[float, float]:
            return (float(np.median(values)), float(np.quantile(values, 0.99))) if values else (0.0, 0.0)

        return Report(
            self.ticks,
            self.safety.stopped,
            percentiles(np.diff(self.times["sent"]).tolist()),
            percentiles(self.times["work"]),
            percentiles(self.times["answer"]),
            percentiles(self.times["inference"]),
            self.chunks,
            self.delay,
            self.misses,
            self.starved,
            dict(self.safety.interventions),
        )


def posture_of(embodiment: Embodiment, state: Any) -> tuple[Array, Array]:
    """`joints` and `grippers` as `Command` has them, from proprioception; of a gripper by effort, none.

    Raises:
        KibanError: if `state` is not what the embodiment's `state_names` say.
    """
    values = np.asarray(state, np.float64)
    if values.shape != (len(embodiment.state_names),) or not np.isfinite(values).all():
        raise KibanError(f"state: {values.tolist()} are not {len(embodiment.state_names)} finite numbers")
    known = dict(zip(embodiment.state_names, values, strict=True))
    joints: list[float] = []
    grippers: list[float] = []
    for arm in embodiment.arms:
        names = [joint.name for joint in arm.joints] or ["hand.x", "hand.y", "hand.z"]
        joints += [known[embodiment.prefix(arm) + name] for name in names]
        low, high = arm.gripper.opening
        opening = known[f"{embodiment.prefix(arm)}gripper.opening"]
        grippers.append(0.0 if arm.gripper.control == "effort" else min(max(opening, low), high))
    return np.array(joints), np.array(grippers)


def _done(observation: Observation) -> Future[Observation]:
    future: Future[Observation] = Future()
    future.set_result(observation)
    return future


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
