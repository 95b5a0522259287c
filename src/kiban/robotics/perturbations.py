"""Perturbations: the world made a little other than in the demonstrations, along named axes.

camera=2cm     every camera moved by so much, across its view, in a direction drawn from the episode's seed
light=50%      the scene's lights as strong as this share of what they were
distractors=2  so many things more, which no instruction means: things to touch on the tabletop, pictures in Meta-World
wording        instructions in wordings that occur in no demonstration
mass=200%      of whatever is not the robot
friction=50%   sliding friction between all surfaces
latency=2      control periods between an observation and the action that follows from it
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import Camera


@dataclass(frozen=True)
class Perturbation:
    """How far from the demonstrations' world; the default is that world itself. `camera` in m, `latency` in periods."""

    camera: float = 0.0
    light: float = 1.0
    distractors: int = 0
    wording: bool = False
    mass: float = 1.0
    friction: float = 1.0
    latency: int = 0

    @property
    def name(self) -> str:
        """As it is given: `camera=2cm`, several with commas, `none` for the demonstrations' world."""
        words = {
            "camera": f"camera={100 * self.camera:g}cm",
            "wording": "wording",
            **{axis: f"{axis}={100 * getattr(self, axis):g}%" for axis in ("light", "mass", "friction")},
            **{axis: f"{axis}={getattr(self, axis)}" for axis in ("distractors", "latency")},
        }
        return ",".join(words[f.name] for f in fields(self) if getattr(self, f.name) != f.default) or "none"


NONE = Perturbation()

# What `--perturbations all` measures, one axis at a time.
STANDARD = (
    Perturbation(camera=0.02),
    Perturbation(light=0.5),
    Perturbation(distractors=2),
    Perturbation(wording=True),
    Perturbation(mass=2.0),
    Perturbation(friction=0.5),
    Perturbation(latency=2),
)

_FORMS = {
    "camera": r"(\d+(?:\.\d+)?)(mm|cm|m)",
    "light": r"(\d+(?:\.\d+)?)%",
    "distractors": r"(\d+)",
    "mass": r"(\d+(?:\.\d+)?)%",
    "friction": r"(\d+(?:\.\d+)?)%",
    "latency": r"(\d+)",
}
_EXAMPLES = "camera=2cm, light=50%, distractors=2, wording, mass=200%, friction=50%, latency=2"
_UNITS = {"mm": 0.001, "cm": 0.01, "m": 1.0}
_SHARES = ("light", "mass", "friction")
_MOST = {"camera": 0.5, "light": 4, "distractors": 6, "mass": 100, "friction": 100, "latency": 100}


def parse(texts: Iterable[str]) -> tuple[Perturbation, ...]:
    """Each text is a perturbation such as `camera=2cm`, or several together, such as `camera=2cm,light=50%`.

    Raises:
        KibanError: if an axis or its amount is none.
    """
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Perturbation:
    values: dict[str, Any] = {}
    for part in (part.strip() for part in text.split(",")):
        axis, _, amount = part.partition("=")
        if part == "wording":
            values[axis] = True
            continue
        match = re.fullmatch(_FORMS.get(axis, "(?!)"), amount)
        if not match:
            raise KibanError(f"perturbation '{part}': there is no such thing; write it like {_EXAMPLES}")
        number = float(match[1])
        value = number * _UNITS[match[2]] if axis == "camera" else number / 100 if axis in _SHARES else int(number)
        if value > _MOST[axis] or (value == 0 and axis == "mass"):
            raise KibanError(f"perturbation '{part}': too much or nothing; write it like {_EXAMPLES}")
        values[axis] = value
    found = Perturbation(**values)
    if found == NONE:
        raise KibanError(f"perturbation '{text}': changes nothing; write it like {_EXAMPLES}")
    return found


def moved(camera: Camera, axes: NDArray[np.float64], distance: float, rng: np.random.Generator) -> Camera:
    """`camera` shifted, without a turn, by `distance` m in the plane that its right and up (`axes`) span."""
    if distance == 0:
        return camera
    angle = rng.uniform(0, 2 * np.pi)
    shift = distance * (np.cos(angle) * axes[:, 0] + np.sin(angle) * axes[:, 1])
    position, target = (tuple(float(x) for x in np.array(point) + shift) for point in (camera.position, camera.target))
    return camera.model_copy(update={"position": position, "target": target})


def change_physics(model: mujoco.MjModel, perturbation: Perturbation, robot: str) -> None:
    """Masses of what hangs on another root than the body `robot` does, and friction, in place."""
    root = model.body_rootid[model.body(robot).id]
    others = np.nonzero(model.body_rootid != root)[0]
    model.body_mass[others] *= perturbation.mass
    model.body_inertia[others] *= perturbation.mass
    model.geom_friction[:, 0] *= perturbation.friction
