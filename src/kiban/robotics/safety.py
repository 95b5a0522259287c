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
from kiban.robotics.collision import CLEAR, KEEP_OUT, SELF, WORKSPACE, body_of, follow
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.safe_step import KINDS, REASONS, advance, amounts, braked_all

Array = NDArray[np.float64]

NOISE = 0.01  # rad or m; how far outside its range a joint may be measured to start there, at its range's end
LOGGED = 64  # numbers of an action, or letters of what is none


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
        refusal, wanted = None, _numbers(action, self._size)
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
        at = _numbers(joints, moving)
        if at is None:
            self.stop("the robot reports no proper joint positions")
            return
        lag = np.abs(at - self._at[:moving]) / (self._velocity[:moving] / self.embodiment.control_period)
        if lag.max() > self.embodiment.stale_after:
            self.stop(f"{self._coordinate(int(lag.argmax()))} does not follow its commands")
        if efforts is None:
            return
        found = _numbers(efforts, len(self._effort))
        if found is None:
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


def _numbers(values: Any, count: int) -> Array | None:
    """`values` as `count` finite float64, or None if they are not that, whatever they are."""
    try:
        array = np.asarray(values)
        if array.shape != (count,) or array.dtype.kind not in "fiu":
            return None
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    except Exception:  # strange objects raise strange errors when they are asked for their numbers
        return None
    return array if np.isfinite(array).all() else None


def _plain(asked: Any) -> Any:
    """As JSON can hold it: a list of numbers, with text for what is not finite; of anything else, how it reads."""
    try:
        if asked is None:
            return None
        values = asked[:LOGGED].tolist() if isinstance(asked, np.ndarray) and asked.ndim == 1 else asked
        if isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values[:LOGGED]):
            return [float(value) if math.isfinite(value) else str(value) for value in values[:LOGGED]]
        return str(asked)[:LOGGED]
    except Exception:
        return f"a {type(asked).__name__}"


def _names(bits: int) -> tuple[str, ...]:
    return tuple(name for index, name in enumerate(REASONS) if bits >> index & 1)
