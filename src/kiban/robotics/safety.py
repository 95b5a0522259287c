"""The safety filter: every action, from whomever, passes here before it moves anything.

What comes out is a command that keeps every limit of the embodiment, whatever goes in. docs/robot-safety.md says what
is guaranteed and how.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kiban.artifacts.errors import KibanError
from kiban.artifacts.kernel import kernel
from kiban.robotics.collision import CLEAR, KEEP_OUT, SELF, WORKSPACE, Body, body_of, braked, chain_at, follow, pose
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.kinematics import solve

Array = NDArray[np.float64]

ROUNDING = 1e-9
NOISE = 0.01  # rad or m; how far outside its range a joint may be measured to start there, at its range's end
LEAST_SHARE = 1 / 16  # of a step that is tried before braking instead

REACHED, UPRIGHT_WITHIN = 2e-3, 0.02  # m and rad; how near inverse kinematics must come to what is asked

# Reasons of interventions, a bit each in the kernels; the last three are ACCELERATION << what `collision.judge` says.
REASONS = ("action", "position", "velocity", "acceleration", "workspace", "self-collision", "keep-out")
ACTION, POSITION, VELOCITY, ACCELERATION = 1, 2, 4, 8

TOOL, JOINT, HAND = 0, 1, 2
KINDS = {"tool": TOOL, "joint": JOINT, "mocap": HAND}


@dataclass(frozen=True)
class Command:
    """What is sent to the motors, arm by arm.

    `joints`: targets in rad (or, of a hand without joints, where to put it in m). `grippers`: each arm's opening in m,
    or its effort. `action`: what was asked, or what this comes to in an action's numbers if it is something else;
    `reasons`: why it is.
    """

    joints: Array
    grippers: Array
    action: Array
    reasons: tuple[str, ...] = ()

    @property
    def opening(self) -> float:
        """The first arm's gripper."""
        return float(self.grippers[0])


class SafetyFilter:
    """Turns actions (see the embodiment's `action`) into commands, one a control period.

    The guarantee, by induction from a safe posture at rest: every command lies within the joints' ranges, velocities
    and accelerations, with the tools in their workspaces, the robot's capsules clear of each other and of the keep-out
    volumes, and from every command the robot can brake to rest by commands that do so too. A step is taken only if
    braking after it is safe; if no part of it is, the braking that was found safe before is carried on.

    An action with a NaN, an infinity or a wrong shape, one that is older than `stale_after`, and any while stopped are
    refused: the robot brakes, and holds. `stop` latches until `release`.

    `interventions` counts them by reason: `refused`, `stale`, `stopped`, and REASONS. That a gripper slews to its
    opening at a limited rate is no intervention: that is what the action means. With `log`, each is a line of JSON:
    time, reasons, asked, given. `clock` is what `made_at` is read on.
    """

    def __init__(
        self, embodiment: Embodiment, log: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.embodiment, self.log, self._clock = embodiment, log, clock
        self.interventions: Counter[str] = Counter()
        self.stopped: str | None = None
        self._body = body = body_of(embodiment)
        action, period = embodiment.action, embodiment.control_period
        self._kind = KINDS[action.kind]
        self._size = len(action.names)
        self._scale = np.array(action.scale)
        self._bounds = np.array([action.lower, action.upper]) * self._scale
        # Velocity and acceleration of the coordinates, then of the grippers, per control period.
        moving = [part for arm in embodiment.arms for part in arm.joints or [arm.hand] * 3 if part is not None]
        grippers = [arm.gripper for arm in embodiment.arms]
        self._velocity = np.array([(part.velocity or math.inf) * period for part in (*moving, *grippers)])
        self._acceleration = np.array([(part.acceleration or math.inf) * period**2 for part in (*moving, *grippers)])
        self._by_effort = np.array([gripper.control == "effort" for gripper in grippers])
        ranges = [(-g.effort, g.effort) if g.control == "effort" else g.opening for g in grippers]
        self._lower = np.array([*body.lower, *(low for low, _ in ranges)])
        self._upper = np.array([*body.upper, *(high for _, high in ranges)])
        self._effort = np.array([joint.effort for joint in embodiment.joints])
        self._at: Array | None = None  # the last command: the body's coordinates, then the grippers
        self._step = np.zeros_like(self._lower)  # to it, in its control period

    @property
    def begun(self) -> bool:
        return self._at is not None

    def reset(self, posture: ArrayLike, grippers: ArrayLike) -> None:
        """Begins at rest: `posture` as `Command.joints`, `grippers` as `Command.grippers`. A stop stays.

        Raises:
            KibanError: if the robot is not safe there.
        """
        at = np.concatenate([np.ravel(np.asarray(posture, np.float64)), np.ravel(np.asarray(grippers, np.float64))])
        if at.shape != self._lower.shape or not np.isfinite(at).all():
            raise KibanError(f"start: {at.tolist()} are not the {len(self._lower)} numbers of {self.embodiment.name}")
        asked, at = at, np.clip(at, self._lower, self._upper)
        outside = np.abs(asked - at) > NOISE
        moving = len(self._body.lower)
        reason, arm, other = follow(at[:moving], np.zeros(moving), self._acceleration[:moving], self._body)
        if outside.any() or reason != CLEAR:
            names = [arm.name for arm in self.embodiment.arms]
            what = {
                CLEAR: f"number {outside.argmax()} of the posture, {asked[outside.argmax()]:g}, is out of its range",
                WORKSPACE: f"the tool of {names[arm]} is outside its workspace",
                SELF: f"{names[arm]} is within its clearance of {'itself' if arm == other else names[other]}",
                KEEP_OUT: f"{names[arm]} is in a keep-out volume",
            }[CLEAR if outside.any() else reason]
            raise KibanError(f"{self.embodiment.name}: not safe to start: {what}; move the robot by hand, then start")
        self._at, self._step = at, np.zeros_like(at)
        self.interventions.clear()
        self._advanced(np.zeros(self._size), at.copy(), np.zeros_like(at))  # compiled before anything moves

    def command(self, action: Any, made_at: float | None = None) -> Command:
        """The safe command that comes nearest to what `action` asks, for the next control period.

        `made_at`: when the action was decided, on the filter's clock; None is now. An action of None is none at all.
        """
        assert self._at is not None, "reset comes first"
        refusal, wanted = None, None if action is None else self._understood(action)
        if self.stopped is not None:
            refusal = "stopped"
        elif action is None or (
            made_at is not None and not 0 <= self._clock() - made_at <= self.embodiment.stale_after
        ):
            refusal = "stale"
        elif wanted is None:
            refusal = "refused"
        bits = 0
        if refusal is not None or wanted is None:
            self._brake()
        else:
            bits = self._advanced(wanted * self._scale, self._at, self._step)
        reasons = (refusal,) if refusal is not None else _names(bits) if bits else ()
        if not reasons:
            return self._command(wanted, reasons)
        command = self._command(None, reasons)
        self.interventions.update(reasons)
        self._record(reasons, action, command.action)
        return command

    def brake(self) -> Command:
        """The next command on the way to rest, because whoever drives the robot wants it to stop there."""
        assert self._at is not None, "reset comes first"
        self._brake()
        return self._command(None, ())

    def _advanced(self, wanted: Array, at: Array, step: Array) -> int:
        return advance(
            wanted,
            self._bounds,
            self._kind,
            self._by_effort,
            at,
            step,
            self._lower,
            self._upper,
            self._velocity,
            self._acceleration,
            self._body,
        )

    def _brake(self) -> None:
        self._step = braked_all(self._step, self._acceleration)
        self._at = np.clip(self._at + self._step, self._lower, self._upper)

    def _command(self, action: Array | None, reasons: tuple[str, ...]) -> Command:
        assert self._at is not None
        moving = len(self._body.lower)
        if action is None:
            action = np.empty(self._size)
            amounts(self._at, self._step, self._kind, self._body, action)
            action /= self._scale
        return Command(self._at[:moving].copy(), self._at[moving:].copy(), action, reasons)

    def stop(self, reason: str) -> None:
        """The emergency stop: from the next command on the robot brakes, and then holds, until `release`."""
        if self.stopped is None:
            self.stopped = reason
            self._record(("stop: " + reason,), None, None)

    def release(self, reason: str) -> None:
        """Ends a stop. Whoever does so says why it is safe to go on.

        Raises:
            KibanError: if no reason is given.
        """
        if not reason.strip():
            raise KibanError("emergency stop: say why it is safe to go on")
        if self.stopped is not None:
            self._record((f"release: {reason}",), None, None)
            self.stopped = None

    def measured(self, joints: ArrayLike, efforts: ArrayLike | None = None) -> None:
        """What the robot reports: `joints` as `Command.joints`, `efforts` of the joints in N m.

        It stops if a joint's effort exceeds its limit, if a joint is further from its command than it could get at full
        speed within `stale_after`, or if a number is missing or not finite.
        """
        assert self._at is not None, "reset comes first"
        moving = len(self._body.lower)
        at = self._numbers(joints)
        if at is None or at.shape != (moving,):
            self.stop("the robot reports no proper joint positions")
            return
        lag = np.abs(at - self._at[:moving]) / (self._velocity[:moving] / self.embodiment.control_period)
        if lag.max() > self.embodiment.stale_after:
            self.stop(f"{self._coordinate(int(lag.argmax()))} does not follow its commands")
        if efforts is None:
            return
        found = self._numbers(efforts)
        if found is None or found.shape != self._effort.shape:
            self.stop("the robot reports no proper efforts")
        elif (np.abs(found) > self._effort).any():
            worst = int((np.abs(found) / self._effort).argmax())
            limit = self._effort[worst]
            self.stop(f"{self._coordinate(worst)} bears {abs(found[worst]):g} N m, its limit is {limit:g}")

    def _coordinate(self, index: int) -> str:
        names = [
            self.embodiment.prefix(arm) + name
            for arm in self.embodiment.arms
            for name in ([joint.name for joint in arm.joints] or ["hand.x", "hand.y", "hand.z"])
        ]
        return names[index]

    def _understood(self, action: Any) -> Array | None:
        wanted = self._numbers(action)
        return wanted if wanted is not None and wanted.shape == (self._size,) else None

    @staticmethod
    def _numbers(values: Any) -> Array | None:
        """As finite float64, or None if they cannot be that."""
        try:
            array = np.asarray(values)
            if array.dtype.kind not in "fiu":
                return None
            with np.errstate(over="ignore"):
                array = array.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
        return array if np.isfinite(array).all() else None

    def _record(self, reasons: tuple[str, ...], asked: Any, given: Array | None) -> None:
        if self.log is None:
            return
        row = {
            "time": datetime.now(UTC).isoformat(),
            "reasons": reasons,
            "asked": _plain(asked),
            "given": None if given is None else given.tolist(),
        }
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            self.log = None  # or the stop would be recorded too
            self.stop(f"interventions cannot be logged: {error}")


def _plain(asked: Any) -> Any:
    """As JSON can hold it: what is not a finite number becomes text."""
    if isinstance(asked, np.ndarray):
        asked = asked.tolist()
    if isinstance(asked, (list, tuple)):
        return [_plain(value) for value in asked[:64]]
    if asked is None or (isinstance(asked, (int, float)) and math.isfinite(asked)):
        return asked
    return str(asked)[:64]


def _names(bits: int) -> tuple[str, ...]:
    return tuple(name for index, name in enumerate(REASONS) if bits >> index & 1)


@kernel
def braked_all(step: Array, deceleration: Array) -> Array:
    out = np.empty(len(step))
    for i in range(len(step)):
        out[i] = braked(step[i], deceleration[i])
    return out


@kernel
def stopping_step(distance: float, deceleration: float, most: float) -> float:
    """The longest step, up to `most`, after which braking ends within `distance` of where the step began.

    A step s with n more of s - A, s - 2 A, ... comes to (n + 1) s - A n (n + 1) / 2, where n A < s <= (n + 1) A.
    """
    if deceleration >= most:
        return min(max(distance, 0.0), most)
    n = 0
    while n * deceleration < most:
        if distance <= deceleration * (n + 1) * (n + 2) / 2:
            return min((max(distance, 0.0) + deceleration * n * (n + 1) / 2) / (n + 1), most)
        n += 1
    return most


@kernel
def allowed(
    i: int, at: Array, step: Array, lower: Array, upper: Array, velocity: Array, acceleration: Array
) -> tuple[float, float]:
    """The least and the greatest next step of coordinate `i`; that of braking is always between them."""
    brake = braked(step[i], acceleration[i])
    low = max(step[i] - acceleration[i], -stopping_step(at[i] - lower[i], acceleration[i], velocity[i]))
    high = min(step[i] + acceleration[i], stopping_step(upper[i] - at[i], acceleration[i], velocity[i]))
    return min(low, brake), max(high, brake)


@kernel
def amounts(at: Array, step: Array, kind: int, body: Body, given: Array) -> None:
    """What a `step` that ended `at` comes to as an action, in the action's units, into `given`."""
    moving = len(body.lower)
    frames = moving + len(body.hand)
    origins, rotations = np.empty((frames, 3)), np.empty((frames, 3, 3))
    before, after = np.empty((len(body.hand), 3)), np.empty((len(body.hand), 3))
    if kind == TOOL:
        earlier = np.empty(moving)
        for i in range(moving):
            earlier[i] = at[i] - step[i]
        pose(earlier, body, origins, rotations, before)
        pose(at[:moving], body, origins, rotations, after)
    k = 0
    for arm in range(len(body.hand)):
        if kind == TOOL:
            for axis in range(3):
                given[k] = after[arm, axis] - before[arm, axis]
                k += 1
        else:
            for i in range(body.first[arm], body.first[arm + 1]):
                given[k] = step[i]
                k += 1
        given[k] = at[moving + arm]
        k += 1


@kernel
def advance(
    wanted: Array,
    bounds: Array,
    kind: int,
    by_effort: NDArray[np.bool_],
    at: Array,
    step: Array,
    lower: Array,
    upper: Array,
    velocity: Array,
    acceleration: Array,
    body: Body,
) -> int:
    """Moves `at` and `step` (per control period) on by one safe command towards what is `wanted`; the reasons' bits.

    Coordinates are the body's, then the grippers.
    """
    arms, moving = len(body.hand), len(body.lower)
    bits = 0
    bounded = np.empty(len(wanted))
    for i in range(len(wanted)):
        bounded[i] = min(max(wanted[i], bounds[0, i]), bounds[1, i])
        if abs(bounded[i] - wanted[i]) > ROUNDING:
            bits |= ACTION

    # What is asked of each coordinate.
    target = np.empty(len(at))  # the step that is asked
    if kind == TOOL:
        frames = moving + arms
        origins, rotations, tools = np.empty((frames, 3)), np.empty((frames, 3, 3)), np.empty((arms, 3))
        goal = np.empty(3)
        pose(at[:moving], body, origins, rotations, tools)
    k = 0
    for arm in range(arms):
        a, b = body.first[arm], body.first[arm + 1]
        if kind == TOOL:
            for axis in range(3):
                beyond = tools[arm, axis] + bounded[k]
                goal[axis] = min(max(beyond, body.workspaces[arm, 0, axis]), body.workspaces[arm, 1, axis])
                if abs(beyond - goal[axis]) > ROUNDING:
                    bits |= ACCELERATION << WORKSPACE
                k += 1
            # Where the arm is too short, or would have to turn its elbow over, a shorter way or none.
            chain, way = chain_at(arm, body), 1.0
            leaning = solve(tools[arm], at[a:b], chain)[2]
            found, off, turned = solve(goal, at[a:b], chain)
            while off > REACHED or turned > max(UPRIGHT_WITHIN, leaning):
                bits |= ACCELERATION << WORKSPACE
                way = way / 2 if way > LEAST_SHARE else 0.0
                if way == 0.0:
                    break
                for axis in range(3):
                    goal[axis] = 0.5 * (goal[axis] + tools[arm, axis])
                found, off, turned = solve(goal, at[a:b], chain)
            for i in range(a, b):
                target[i] = found[i - a] - at[i] if way > 0.0 else 0.0
        else:
            for i in range(a, b):
                target[i] = bounded[k]
                k += 1
        target[moving + arm] = bounded[k] - at[moving + arm]
        k += 1

    # As far as range, velocity and acceleration allow: each coordinate by itself, an arm that goes to a place in one.
    brake = braked_all(step, acceleration)
    for arm in range(arms):
        share = 1.0
        for i in range(body.first[arm], body.first[arm + 1]):
            low, high = allowed(i, at, step, lower, upper, velocity, acceleration)
            if target[i] > high + ROUNDING or target[i] < low - ROUNDING:
                if abs(target[i]) > velocity[i] + ROUNDING:
                    bits |= VELOCITY
                elif abs(target[i] - step[i]) > acceleration[i] + ROUNDING:
                    bits |= ACCELERATION
                else:
                    bits |= POSITION
            if kind == TOOL:
                way = target[i] - brake[i]
                if way > high - brake[i]:
                    share = min(share, (high - brake[i]) / way)
                elif way < low - brake[i]:
                    share = min(share, (low - brake[i]) / way)
            else:
                target[i] = min(max(target[i], low), high)
        if kind == TOOL and share < 1.0:
            for i in range(body.first[arm], body.first[arm + 1]):
                target[i] = brake[i] + share * (target[i] - brake[i])
        i = moving + arm
        if not by_effort[arm]:
            low, high = allowed(i, at, step, lower, upper, velocity, acceleration)
            # So as to come to rest at the opening that is asked for, and not beyond it.
            if target[i] > 0.0:
                high = max(min(high, stopping_step(target[i], acceleration[i], velocity[i])), brake[i])
            else:
                low = min(max(low, -stopping_step(-target[i], acceleration[i], velocity[i])), brake[i])
            target[i] = min(max(target[i], low), high)

    # As far as it stays clear, with room to brake. The arms that are to blame get a smaller share of their step.
    shares, tried = np.ones(arms), np.empty(len(at))
    for i in range(len(at)):
        tried[i] = target[i]
    while True:
        reason, one, other = follow(at[:moving], tried[:moving], acceleration[:moving], body)
        if reason == CLEAR:
            break
        bits |= ACCELERATION << reason
        if shares[one] == 0.0 and shares[other] == 0.0:  # by rounding alone: that they can brake was seen before
            for i in range(moving):
                tried[i] = brake[i]
            break
        for arm in range(min(one, other), max(one, other) + 1):
            if arm == one or arm == other:
                shares[arm] = shares[arm] / 2 if shares[arm] > LEAST_SHARE else 0.0
                for i in range(body.first[arm], body.first[arm + 1]):
                    tried[i] = brake[i] + shares[arm] * (target[i] - brake[i])
    for i in range(len(at)):
        step[i] = tried[i]
        at[i] = min(max(at[i] + step[i], lower[i]), upper[i])
    return bits
