"""Meta-World's fifty tasks behind the tabletop's interface: pictures, four numbers, a sentence in Japanese.

The protocol is that of the published evaluations with pictures (MT50 in lerobot's environment): camera corner2 moved
to (0.75, 0.075, 0.7) and turned the right way up, proprioception of the hand's position and the gripper's opening
alone, goals drawn anew for each episode from the task's own space, success ends the episode, 500 steps at most. The
differences from it: the instruction is Japanese, and says one task alone; goals come from the episode's seed and not
from a global generator; the first picture shows the goal where it is, not where it was in the episode before; pictures
are cast (`mesh_camera`) unless GL is asked for, of the embodiment's size, and in both there are no shadows and no
reflections; every action passes the safety filter.
"""

import os
import sys
import tomllib
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.camera import look_at
from kiban.robotics.embodiment import Camera, Embodiment
from kiban.robotics.mesh_camera import Drawn, MeshCamera, Triangles
from kiban.robotics.perturbations import NONE, Perturbation, change_physics, moved
from kiban.robotics.safety import SafetyFilter
from kiban.robotics.tasks import Wordings

Array = NDArray[np.float64]
Observation = dict[str, Any]
Renderer = Literal["rays", "gl"]

INSTRUCTIONS = Path(__file__).with_name("mt50_ja.toml")
GROUPS = ("easy", "medium", "hard", "very_hard")
STEPS = 500  # after which an episode ends
OPEN = -1.0  # the gripper's effort when an episode begins
SAMPLES = 2  # rays a pixel along each side: what is smaller than a pixel is seen all the same
# Where distractors may be drawn: left and right of where tasks take place, on the table. x and y in m.
_BESIDE = ((0.24, 0.36), (0.45, 0.75))
_DISTRACTOR_COLOURS = ((0.55, 0.35, 0.75), (0.90, 0.55, 0.15), (0.20, 0.60, 0.55), (0.85, 0.80, 0.25))


@cache
def _language() -> dict[str, Any]:
    return tomllib.loads(INSTRUCTIONS.read_text(encoding="utf-8"))


def tasks() -> dict[str, str]:
    """The group of each task, the easy ones first."""
    groups = {task: str(entry["group"]) for task, entry in _language()["tasks"].items()}
    return dict(sorted(groups.items(), key=lambda pair: GROUPS.index(pair[1])))


def sentences(task: str, which: Wordings) -> list[tuple[str, str]]:
    """(register, sentence): registers are plain, polite and honorific."""
    endings, phrases = _language()["endings"][which], _language()["tasks"][task][which]
    return [(register, form.format(do=do)) for register in endings for do in phrases for form in endings[register]]


def instruction(task: str, which: Wordings, rng: np.random.Generator, register: str | None = None) -> tuple[str, str]:
    """A register, drawn if none is given, and a sentence in it that asks for `task`."""
    drawn = str(rng.choice(sorted(_language()["endings"][which])))
    register = register or drawn
    return register, str(rng.choice([text for found, text in sentences(task, which) if found == register]))


class MetaWorldEnv(gymnasium.Env[Observation, Array]):
    """One of the fifty tasks.

    Observation: an image a camera (uint8 [height, width, 3]), `state` (float32: the hand's x, y, z in m, the gripper's
    opening as a share of its widest; no object's and no goal's coordinates), `instruction`. Action: float64 [4] in
    [-1, 1]: the hand's displacement in cm, and the gripper's effort. The same seed gives the same bits.

    Raises:
        KibanError: if Meta-World is not installed, there is no such task, or GL is asked for and cannot be had.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        embodiment: Embodiment,
        task: str,
        wordings: Wordings = "train",
        perturbation: Perturbation = NONE,
        renderer: Renderer = "rays",
    ) -> None:
        if task not in tasks():
            raise KibanError(f"task '{task}': Meta-World has none of that name; its names are like push-v3")
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise KibanError(f"Meta-World is not installed ({error}); pip install 'kiban[metaworld]'") from None
        if renderer == "gl" and (perturbation.light != 1.0 or perturbation.distractors):
            raise KibanError(f"perturbation '{perturbation.name}': GL draws neither light nor distractors; use rays")
        self.embodiment, self.task_name, self.perturbation = embodiment, task, perturbation
        self._wordings: Wordings = "held_out" if perturbation.wording else wordings
        self._world: Any = ALL_V3_ENVIRONMENTS[task]()
        self._world._set_task_called = True
        self._world._partially_observable = False  # the expert reads the goal; nothing of it gets into observations
        del self._world.sawyer_observation_space  # a cached property that hides the goal
        self._world._freeze_rand_vec, self._world.seeded_rand_vec = False, True
        experts: dict[str, Any] = dict(ENV_POLICY_MAP)
        self._expert = experts[task]()
        self.model, self.data = self._world.model, self._world.data
        change_physics(self.model, perturbation, robot="hand")
        self.safety = SafetyFilter(embodiment)
        self._triangles = Triangles(self.model)
        self._gl = _Gl(self.model, embodiment.cameras) if renderer == "gl" else None
        images = {
            camera.name: gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in embodiment.cameras
        }
        charset = frozenset(INSTRUCTIONS.read_text(encoding="utf-8"))
        self.observation_space = gymnasium.spaces.Dict(
            {
                **images,
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (len(embodiment.state_names),), np.float32),
                "instruction": gymnasium.spaces.Text(200, min_length=0, charset=charset),
            }
        )
        self.action_space = gymnasium.spaces.Box(
            np.array(embodiment.action.lower), np.array(embodiment.action.upper), dtype=np.float64
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """`options["instruction"]` replaces the sentence, `options["register"]` binds its register. Info: `register`,
        and `layout`, what was drawn: the places of object and goal, which no policy is given."""
        super().reset(seed=seed)
        layout_seed, aside_seed = (int(n) for n in self.np_random.integers(2**63, size=2))
        options = options or {}
        register, self.instruction = instruction(
            self.task_name, self._wordings, self.np_random, options.get("register")
        )
        if "instruction" in options:
            register, self.instruction = "given", options["instruction"]
        self._world.seed(layout_seed)
        self._full, _ = self._world.reset()
        self.safety.reset(self.data.mocap_pos[0], [OPEN])
        mujoco.mj_forward(self.model, self.data)  # the goal's marker is where the task has put it
        self.layout = tuple(float(x) for x in self._world._last_rand_vec)
        aside = np.random.default_rng(aside_seed)
        extra = self._distractors(aside)
        self._cameras = []
        for camera in self.embodiment.cameras:
            axes = self._axes(camera)
            camera = moved(camera, axes, self.perturbation.camera, aside)
            self._cameras.append(
                MeshCamera(camera, self.model, self._triangles.plus(extra), axes, self.perturbation.light, SAMPLES)
            )
        return self._observation(), {"register": register, "layout": self.layout}

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The reward is 1 when the task is done, which ends the episode, and else 0. Info: `success`,
        `interventions`."""
        self._full, _, _, truncated, told = self._world.step(self.safety.command(action).action)
        success = bool(told["success"])
        info = {"success": success, "interventions": dict(self.safety.interventions)}
        return self._observation(), float(success), success, truncated, info

    def expert_action(self) -> Array:
        """What Meta-World's scripted expert, who knows every position, does now; within the action's bounds."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its action is out of bounds, which is why it is clipped here
            action = self._expert.get_action(self._full)
        return np.clip(np.asarray(action, np.float64), -1.0, 1.0)

    def camera_for_film(self, pixels: int) -> MeshCamera:
        """The first camera, with square pictures of `pixels`."""
        first = self._cameras[0]
        camera = first.camera.model_copy(update={"width": pixels, "height": pixels})
        return MeshCamera(camera, self.model, first.triangles, first.axes, self.perturbation.light, SAMPLES)

    def _axes(self, camera: Camera) -> Array:
        """Right, up and backward: those of the model's camera of this name, turned the right way up, or of its target.

        Meta-World's corner2 is upside down, and tilted by 3 degrees.
        """
        if camera.name not in _camera_names(self.model) or camera.mount != "world":
            return look_at(np.array(camera.position), np.array(camera.target))
        axes = self.data.cam(camera.name).xmat.reshape(3, 3).copy()
        return axes * [-1.0, -1.0, 1.0] if axes[2, 1] < 0 else axes

    def _distractors(self, rng: np.random.Generator) -> list[Drawn]:
        """Things to be seen and not to be touched, beside where tasks take place."""
        drawn = []
        for index in range(self.perturbation.distractors):
            x, y = (rng.uniform(*bounds) for bounds in _BESIDE)
            radius = rng.uniform(0.018, 0.032)
            colour = _DISTRACTOR_COLOURS[int(rng.integers(len(_DISTRACTOR_COLOURS)))]
            drawn.append(Drawn((x if index % 2 else -x, y, radius), radius, colour))
        return drawn

    def _observation(self) -> Observation:
        if self._gl is None:
            pictures = {camera.camera.name: camera.image(self.data) for camera in self._cameras}
        else:
            pictures = {camera.camera.name: self._gl.image(self.data, camera) for camera in self._cameras}
        return {**pictures, "state": self._full[:4].astype(np.float32), "instruction": self.instruction}


def _camera_names(model: mujoco.MjModel) -> set[str]:
    return {model.camera(index).name for index in range(model.ncam)}


class _Gl:
    """Pictures by OpenGL, with what costs most of the time and differs between drivers switched off.

    Not the same bits on every machine.
    """

    def __init__(self, model: mujoco.MjModel, cameras: tuple[Camera, ...]) -> None:
        self._model = model
        for camera in cameras:
            if camera.name not in _camera_names(model) or camera.mount != "world":
                raise KibanError(f"camera '{camera.name}': GL draws only Meta-World's own; use the renderer 'rays'")
        if sys.platform == "linux" and not os.environ.get("DISPLAY") and "MUJOCO_GL" not in os.environ:
            raise KibanError("GL needs a display, or MUJOCO_GL=egl or osmesa; or use the renderer 'rays'")
        model.vis.quality.offsamples = 0
        try:
            self._renderers = {camera.name: mujoco.Renderer(model, camera.height, camera.width) for camera in cameras}
        except Exception as error:  # GL's own kinds, and MuJoCo's
            raise KibanError(
                f"GL cannot be had here ({error}); set MUJOCO_GL=egl or osmesa, or use the renderer 'rays'"
            ) from None

    def image(self, data: mujoco.MjData, camera: MeshCamera) -> NDArray[np.uint8]:
        name, place = camera.camera.name, self._model.camera(camera.camera.name)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(camera.axes).ravel())
        place.pos, place.quat, place.fovy = camera.camera.position, quaternion, camera.camera.field_of_view
        mujoco.mj_camlight(self._model, data)
        renderer = self._renderers[name]
        renderer.update_scene(data, name)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG"):
            renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        return renderer.render().copy()
