"""The tabletop as a Gymnasium environment: seeded, and the same to the last bit for the same seed and actions."""

from dataclasses import replace
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics import expert
from kiban.robotics.camera import RayCamera, look_at
from kiban.robotics.embodiment import Camera, Embodiment
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.perturbations import NONE, Perturbation, change_physics, moved
from kiban.robotics.safety import SafetyFilter
from kiban.robotics.scene import TIMESTEP, Thing, build, controls
from kiban.robotics.tasks import TASKS, Situation, Wordings, arrange, distractors
from kiban.robotics.wording import fill, instruction, vocabulary

Array = NDArray[np.float64]
Observation = dict[str, Any]

START = np.array([0.30, 0.0, 0.20])  # where the tool begins, m, give or take START_SPREAD
START_SPREAD = np.array([0.03, 0.06, 0.03])


class TabletopEnv(gymnasium.Env[Observation, Array]):
    """An arm, three coloured objects, and a Japanese sentence about one of them.

    Observation: an image a camera (uint8 [height, width, 3]), `state` (float32, the embodiment's `state_names`; no
    object's coordinates), `instruction`. Action: float64, the embodiment's `action`: displacements of the tool, since
    they say the same everywhere on the table and a small network learns them from pictures far sooner than joint
    angles; inverse kinematics makes joints of them. Every action passes the safety filter.

    The reward is 1 when the task is done, which ends the episode, and else 0.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self, embodiment: Embodiment, task: str, wordings: Wordings = "train", perturbation: Perturbation = NONE
    ) -> None:
        if task not in TASKS:
            raise KibanError(f"task '{task}': there is no such task; use one of {', '.join(TASKS)}")
        self.embodiment, self.task, self.perturbation = embodiment, TASKS[task], perturbation
        self._wordings: Wordings = "held_out" if perturbation.wording else wordings
        self._kinematics = Kinematics(embodiment.arms[0])
        self.safety = SafetyFilter(embodiment)
        self._substeps = round(embodiment.control_period / TIMESTEP)
        self._joints = len(embodiment.joints)
        cameras = {
            camera.name: gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in embodiment.cameras
        }
        self.observation_space = gymnasium.spaces.Dict(
            {
                **cameras,
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (len(embodiment.state_names),), np.float32),
                "instruction": gymnasium.spaces.Text(200, min_length=0, charset=vocabulary()),
            }
        )
        self.action_space = gymnasium.spaces.Box(
            np.array(embodiment.action.lower), np.array(embodiment.action.upper), dtype=np.float64
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """`options["instruction"]` replaces the sentence; {x} and the like in it are filled in. `options["register"]`
        binds its register. Info: `things` (the named one first), `register`."""
        super().reset(seed=seed)
        self.arrangement = arrange(self.task, self.np_random)
        self.things = self.arrangement.things
        tool = START + self.np_random.uniform(-START_SPREAD, START_SPREAD)
        options = options or {}
        register, self.instruction = instruction(
            self.task, self.arrangement, self._wordings, self.np_random, options.get("register")
        )
        if "instruction" in options:
            given = fill(options["instruction"], self.task, self.arrangement, self.np_random)
            register, self.instruction = "given", given
        aside = np.random.default_rng(int(self.np_random.integers(2**63)))  # nothing below changes what is above
        extra = distractors(self.arrangement, self.task, self.perturbation.distractors, aside)
        self.model = build(self.embodiment, [*self.things, *extra])
        change_physics(self.model, self.perturbation, robot="hand")
        self.data = mujoco.MjData(self.model)
        self._cameras = [self._camera(camera, aside) for camera in self.embodiment.cameras]
        joints = self._kinematics.solve(tool, np.array(self.embodiment.arms[0].posture))
        opening = self.embodiment.gripper.opening[1]
        self.safety.reset(joints, opening)
        self.data.qpos[: self._joints + 2] = controls(self.embodiment, joints, np.array([opening]))
        self._actuate(joints, opening)
        mujoco.mj_step(self.model, self.data, 4 * self._substeps)  # the objects come to rest
        mujoco.mj_forward(self.model, self.data)
        self._starts = [self.object_position(index) for index in range(len(self.things))]
        self._steps = self._held = 0
        return self._observation(), {"things": self.things, "register": register}

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Info: `success`, and `interventions`, the safety filter's count so far by reason."""
        command = self.safety.command(action)
        self._actuate(command.joints, command.opening)
        mujoco.mj_step(self.model, self.data, self._substeps)
        mujoco.mj_forward(self.model, self.data)
        self._steps += 1
        self._held = self._held + 1 if self.task.rule.done(self._situation()) else 0
        success = self._held >= self.task.rule.hold
        info = {"success": success, "interventions": dict(self.safety.interventions)}
        return self._observation(), float(success), success, self._steps >= self.task.rule.limit, info

    def expert_action(self) -> Array:
        return expert.act(self)

    def camera_for_film(self, pixels: int) -> RayCamera:
        """The first camera, with square pictures of `pixels`."""
        camera = self._cameras[0].camera.model_copy(update={"width": pixels, "height": pixels})
        return RayCamera(camera, self.model, self.perturbation.light)

    def _camera(self, camera: Camera, rng: np.random.Generator) -> RayCamera:
        axes = look_at(np.array(camera.position), np.array(camera.target))
        return RayCamera(moved(camera, axes, self.perturbation.camera, rng), self.model, self.perturbation.light)

    def _actuate(self, joints: Array, opening: float) -> None:
        self.data.ctrl[:] = controls(self.embodiment, joints, np.array([opening]))

    def object_position(self, index: int) -> Array:
        """The centre of object `index` now, m. For experts and for judging; no policy sees it."""
        return self.data.body(f"object{index}").xpos.copy()

    @property
    def tool_position(self) -> Array:
        return self.data.site("tool").xpos.copy()

    @property
    def opening(self) -> float:
        """Between the fingers' pads, m."""
        return float(self.data.qpos[self._joints : self._joints + 2].sum())

    @property
    def named(self) -> Thing:
        return self.things[0]

    def _situation(self) -> Situation:
        moved = [
            float(np.linalg.norm((self.object_position(index) - self._starts[index])[:2]))
            for index in range(1, len(self.things))
        ]
        now = Situation(
            self.tool_position, self.object_position(0), self._starts[0], self.named.half_height, max(moved)
        )
        if self.task.rule.num_named == 1:
            return now
        return replace(
            now,
            second=self.object_position(1),
            second_start=self._starts[1],
            second_half_height=self.things[1].half_height,
            side=self.arrangement.side,
            touched=bool(self.fingers_on(0) or self.fingers_on(1)),
        )

    def fingers_on(self, index: int) -> set[str]:
        """Which fingers touch object `index`."""
        named = self.model.geom(f"object{index}").id
        touching: set[str] = set()
        for contact in self.data.contact:
            if named in contact.geom:
                touching.update(self.model.geom(int(geom)).name for geom in contact.geom)
        return touching & {"left_finger", "right_finger"}

    def _observation(self) -> Observation:
        state = np.array([*self.data.qpos[: self._joints], self.opening, *self.tool_position], np.float32)
        images = {camera.camera.name: camera.image(self.data) for camera in self._cameras}
        return {**images, "state": state, "instruction": self.instruction}
