"""The room's stages: demonstrations -> policy -> rollout. Heavy imports stay inside the functions."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import WORK, Artifact
from kiban.robotics.embodiment import file_of
from kiban.robotics.policy_config import PolicyKind

TaskName = Literal["reach", "push", "pick"]
TASK_NAMES: tuple[TaskName, ...] = ("reach", "push", "pick")
INSTRUCTIONS = Path(__file__).with_name("instructions.toml")


class DemonstrationsSettings(Settings):
    """`episodes` of each task."""

    embodiment: str
    tasks: tuple[TaskName, ...]
    episodes: int
    seed: int


class PolicySettings(Settings):
    """`threads` is part of what determines the weights: sums are split among them.

    `network`: the policy, or a baseline (ACT, Diffusion Policy) on the same data. `held_out`: the share of episodes
    that are measured and not trained on. `train_language`: the language model learns on with the policy, which then has
    a copy of its own. `euler_steps` make an action out of noise; `distil` teaches them what ten or more do.
    """

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    threads: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**32)
    network: PolicyKind = "kiban"
    held_out: float = Field(default=0.0, ge=0, lt=1)
    train_language: bool = False
    euler_steps: int = Field(default=5, ge=1)
    distil: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.distil and self.network != "kiban":
            raise ValueError(f"distil: network '{self.network}' has no flow to distil; leave it out")
        return self


class RolloutSettings(Settings):
    """`episodes` of each task, each with a training wording and with a held-out one."""

    embodiment: str
    tasks: tuple[TaskName, ...]
    episodes: int
    seed: int


class RobotSettings(Settings):
    """`[robot]` of a programme. `episodes` and `rollouts` count for each task; `steps` are those of training."""

    embodiment: str = "tabletop-arm"
    tasks: tuple[TaskName, ...] = Field(default=TASK_NAMES, min_length=1)
    episodes: int = Field(default=400, ge=1)
    steps: int = Field(default=1200, ge=1)
    batch: int = Field(default=64, ge=1)
    threads: int = Field(default=2, ge=1)
    rollouts: int = Field(default=40, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    network: PolicyKind = "kiban"
    held_out: float = Field(default=0.0, ge=0, lt=1)
    train_language: bool = False
    euler_steps: int = Field(default=5, ge=1)
    distil: bool = False

    @field_validator("embodiment")
    @classmethod
    def _exists(cls, name: str) -> str:
        file_of(name)
        return name

    def demonstrations(self) -> DemonstrationsSettings:
        return DemonstrationsSettings(
            embodiment=self.embodiment, tasks=self.tasks, episodes=self.episodes, seed=self.seed
        )

    def policy(self) -> PolicySettings:
        return PolicySettings(**{name: getattr(self, name) for name in PolicySettings.model_fields})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.policy()
        return self

    def rollout(self) -> RolloutSettings:
        return RolloutSettings(embodiment=self.embodiment, tasks=self.tasks, episodes=self.rollouts, seed=self.seed)


def _files(settings: DemonstrationsSettings | RolloutSettings) -> list[Path]:
    return [file_of(settings.embodiment), INSTRUCTIONS]


@stage("demonstrations", external=_files, rights=lambda settings: Rights())
def demonstrations(settings: DemonstrationsSettings, out: Path, progress: Progress) -> Outcome:
    """A scripted expert's episodes as a LeRobot v3 dataset. We make them ourselves, so every use is granted."""
    from kiban.robotics.demonstrations import collect
    from kiban.robotics.embodiment import load

    embodiment = load(settings.embodiment)
    summary = collect(
        embodiment, settings.tasks, settings.episodes, settings.seed, out / "dataset", out / WORK / "episodes", progress
    )
    rate = summary.episodes / summary.attempts
    return Outcome(
        {
            "demonstrations.episodes": Metric(value=summary.episodes, unit="episodes"),
            "demonstrations.frames": Metric(value=summary.frames, unit="frames"),
            "demonstrations.expert_success_rate": Metric(value=rate, unit="success rate", n=summary.attempts),
        }
    )


@stage("policy", inputs=("demonstrations", "export"), use="pretrain", version=2)
def policy(
    settings: PolicySettings, demonstrations: Artifact, export: Artifact, out: Path, progress: Progress
) -> Outcome:
    """Trains the policy on the demonstrations, reading their sentences through the exported language model."""
    from kiban.robotics.train_policy import train_from

    trained = train_from(
        settings,
        [demonstrations.path / "dataset"],
        demonstrations.settings["tasks"],
        export.path,
        export.address,
        out,
        out / WORK,
        progress,
    )
    metrics = {
        "policy.loss": Metric(value=trained.loss, unit="training loss"),
        "policy.parameters": Metric(value=trained.parameters, unit="parameters"),
        "policy.frames_per_s": Metric(value=trained.frames_per_s, unit="frames/s"),
    }
    if trained.held_out_loss is not None:
        metrics["policy.held_out_loss"] = Metric(value=trained.held_out_loss, unit="training loss")
    return Outcome(metrics, consumed={"steps": [0, settings.steps]})


@stage("rollout", inputs=("policy", "export"), use="evaluate", external=_files)
def rollout(settings: RolloutSettings, policy: Artifact, export: Artifact, out: Path, progress: Progress) -> Outcome:
    """The policy's success rate over seeded episodes, and a film of each task."""
    from kiban.robotics.rollout import evaluate, rates, requests_for, write

    requests = requests_for(
        policy.path, export.path, settings.tasks, ("train", "held_out"), settings.episodes, settings.seed
    )
    records = evaluate(requests, progress)
    write(records, requests, out)
    return Outcome(rates(records))
