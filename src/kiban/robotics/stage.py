"""The room's stages: demonstrations -> policy -> rollout. Heavy imports stay inside the functions."""

import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import ANYWHERE, Rights, meet, obligations_of
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import WORK, Artifact
from kiban.robotics.embodiment import file_of
from kiban.robotics.policy_config import PolicyKind

TaskName = Literal[
    "reach", "push", "pick", "place", "stack", "sort",
    "reach-shape", "push-shape", "pick-shape", "place-shape", "stack-shape", "sort-shape",
    "reach-size", "push-size", "pick-size", "place-size", "stack-size", "sort-size",
    "reach-relation", "push-relation", "pick-relation", "place-relation", "stack-relation",
]  # fmt: skip
DEFAULT_TASKS: tuple[TaskName, ...] = ("reach", "push", "pick")
TERMS = ("partner", "licence", "uses", "residency", "expires", "obligations")  # of a dataset from elsewhere
INSTRUCTIONS = Path(__file__).with_name("instructions.toml")


class DatasetSettings(Settings):
    """A LeRobot dataset that came from a partner, and its terms, as those of a `[[source]]`."""

    path: str
    partner: str
    licence: str
    uses: tuple[str, ...]
    residency: tuple[str, ...] = (ANYWHERE,)
    expires: datetime.date | None = None
    obligations: tuple[str, ...] = ()
    location: str = Field(exclude=True)  # `path` made absolute

    def rights(self) -> Rights:
        """What the partner grants, as far as the dataset itself does.

        Raises:
            KibanError: if a use is claimed here that the terms in the dataset do not grant.
        """
        from kiban.robotics.dataset_terms import read

        granted = Rights(
            uses=frozenset(self.uses),
            residency=frozenset(self.residency),
            expires=self.expires,
            obligations=obligations_of(self.licence, Path(self.location).name) | frozenset(self.obligations),
        )
        carried = read(Path(self.location))
        if carried is None:
            return granted
        beyond = sorted(granted.uses - carried.rights.uses)
        if beyond:
            raise KibanError(
                f"[robot] dataset '{self.path}': `uses` has '{beyond[0]}', which the terms in the dataset do not "
                "grant; take it out, or ask whoever made the dataset"
            )
        return meet([granted, carried.rights])


class DemonstrationsSettings(Settings):
    """`episodes` of each task are recorded; or `dataset` is taken, and none is."""

    embodiment: str
    tasks: tuple[TaskName, ...]
    episodes: int | None
    seed: int
    dataset: DatasetSettings | None = None


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
    """`[robot]` of a programme. `episodes` and `rollouts` count for each task; `steps` are those of training.

    `dataset` is the folder of a LeRobot dataset to learn from in place of recording `episodes`; `partner`, `licence`,
    `uses` and the rest are its terms.
    """

    embodiment: str = "tabletop-arm"
    tasks: tuple[TaskName, ...] = Field(default=DEFAULT_TASKS, min_length=1)
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
    dataset: str | None = None
    partner: str | None = None
    licence: str | None = None
    uses: tuple[str, ...] | None = None
    residency: tuple[str, ...] | None = None
    expires: datetime.date | None = None
    obligations: tuple[str, ...] | None = None

    @field_validator("embodiment")
    @classmethod
    def _exists(cls, name: str) -> str:
        file_of(name)
        return name

    @model_validator(mode="after")
    def _terms_go_with_a_dataset(self) -> "RobotSettings":
        terms = {key: getattr(self, key) for key in TERMS}
        if self.dataset is None:
            given = next((key for key, value in terms.items() if value is not None), None)
            if given:
                raise ValueError(f"'{given}' is for a `dataset` from elsewhere; add it, or take '{given}' out")
            return self
        for key in ("partner", "licence", "uses"):
            if terms[key] is None:
                raise ValueError(f"a dataset needs terms: '{key}' is missing; say it as a [[source]] does")
        if "episodes" in self.model_fields_set:
            raise ValueError("'episodes' are recorded, and with a `dataset` none is; take one of the two out")
        obligations_of(str(self.licence), "dataset")
        Rights(uses=frozenset(self.uses or ()))
        return self

    def demonstrations(self, location: Path | None = None) -> DemonstrationsSettings:
        """`location` is where `dataset` lies."""
        dataset = None
        if self.dataset is not None:
            terms = {key: getattr(self, key) for key in TERMS if getattr(self, key) is not None}
            dataset = DatasetSettings(path=self.dataset, location=str(location or self.dataset), **terms)
        return DemonstrationsSettings(
            embodiment=self.embodiment,
            tasks=self.tasks,
            episodes=None if dataset else self.episodes,
            seed=self.seed,
            dataset=dataset,
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


def _demonstrated_from(settings: DemonstrationsSettings) -> list[Path]:
    if settings.dataset is None:
        return _files(settings)
    from kiban.robotics.dataset_terms import files

    folder = Path(settings.dataset.location)
    if not folder.is_dir():
        raise KibanError(f"[robot] dataset '{settings.dataset.path}': there is no such folder ({folder})")
    return files(folder)


def _terms_of(settings: DemonstrationsSettings) -> Rights:
    """Those of the dataset. What we record ourselves is ours, so every use is granted."""
    return settings.dataset.rights() if settings.dataset else Rights()


@stage("demonstrations", version=2, external=_demonstrated_from, rights=_terms_of)
def demonstrations(settings: DemonstrationsSettings, out: Path, progress: Progress) -> Outcome:
    """A LeRobot dataset: a scripted expert's episodes, or a partner's dataset, looked through and copied."""
    from kiban.robotics.embodiment import load

    embodiment = load(settings.embodiment)
    if settings.dataset is not None:
        from kiban.robotics.imported import bring

        dataset = bring(settings.dataset, embodiment, out / "dataset", progress)
        return Outcome(
            {
                "demonstrations.episodes": Metric(value=len(dataset.episodes), unit="episodes"),
                "demonstrations.frames": Metric(value=len(dataset), unit="frames"),
            }
        )
    from kiban.robotics.demonstrations import collect

    assert settings.episodes is not None
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


@stage("rollout", inputs=("policy", "export"), use="evaluate", version=2, external=_files)
def rollout(settings: RolloutSettings, policy: Artifact, export: Artifact, out: Path, progress: Progress) -> Outcome:
    """The policy's success rate over seeded episodes, and a film of each task."""
    from kiban.robotics.rollout import evaluate, rates, requests_for, write

    requests = requests_for(
        policy.path,
        export.path,
        settings.tasks,
        ("train", "held_out"),
        settings.episodes,
        settings.seed,
        embodiment=settings.embodiment,
    )
    records = evaluate(requests, progress)
    write(records, requests, out)
    return Outcome(rates(records))
