"""A plan as a file, `plan.toml`: what the search chose, for the launch to keep to."""

import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.model.config import ModelConfig
from kiban.model.layout import Layout, fault
from kiban.model.presets import preset
from kiban.planning.hardware import GPU
from kiban.planning.running import Running
from kiban.planning.shape import shape_of

HEAD = "# A plan of `kiban plan search`, for `kiban train --plan`. Times in seconds, memory in bytes.\n\n"

# What training computes in, by the precision of a plan.
DTYPE = {"bf16": "bfloat16"}


class Predicted(BaseModel):
    """What the cost model expects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_per_s_per_gpu: float
    mfu: float  # of bf16's peak
    prices_of: str  # the day
    running: Running
    step_seconds: dict[str, float]
    memory_bytes: dict[str, float]  # on the fullest stage


class Plan(BaseModel):
    """The fastest layout, for which model and GPU, and what is expected of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = None  # None: the model is of a folder, and has no name
    tokens: int = Field(gt=0)
    sequence_length: int = Field(gt=0)
    layout: Layout
    predicted: Predicted
    gpu: GPU
    model: ModelConfig

    @field_validator("layout", mode="before")
    @classmethod
    def _known(cls, table: object) -> object:
        names = {field.name for field in fields(Layout)}
        unknown = sorted(set(table) - names) if isinstance(table, dict) else []
        if unknown:
            raise ValueError(f"there is no {', '.join(unknown)}; there are {', '.join(sorted(names))}")
        return table

    @model_validator(mode="after")
    def _possible(self) -> Self:
        wrong = fault(shape_of(self.model), self.layout, self.sequence_length)
        if wrong:
            raise ValueError(wrong)
        if self.preset is not None and preset(self.preset) != self.model:
            raise ValueError(f"[model] is not what preset '{self.preset}' is; plan anew, or leave `preset` out")
        return self


def write_plan(file: Path, plan: Plan) -> None:
    """Raises KibanError if the file cannot be written."""
    table = plan.model_dump(mode="json", exclude_none=True) | {
        "layout": {name: value for name, value in asdict(plan.layout).items() if value is not None}
    }
    try:
        write_atomic(file, HEAD + tomli_w.dumps(table))
    except OSError as error:
        raise KibanError(f"{file}: cannot be written ({error.strerror})") from None


def read_plan(file: Path) -> Plan:
    """Raises KibanError if there is no such file, or it is no plan, or the layout is impossible."""
    try:
        return Plan(**tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise KibanError(f"{file}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KibanError(f"{file}: not TOML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise KibanError(f"{file}: {where}: {said.lower()}" if where else f"{file}: {said}") from None


def settings_of(plan: Plan, file: Path, several: bool = False) -> dict[str, Any]:
    """The settings of [training] that a plan decides. `several`: there are ranks for its layout, not one process.

    Raises:
        KibanError: if it asks for what training cannot do, by name.
    """
    layout = plan.layout
    sizes = ("tensor", "pipeline", "context", "expert", "expert_tensor", "data")
    spread = [f"{name} = {getattr(layout, name)}" for name in sizes if getattr(layout, name) > 1]
    if spread and not several:
        raise KibanError(
            f"{file}: {', '.join(spread)}: this is one process; start the ranks with torchrun -m kiban.training, or "
            "plan with --gpus 1"
        )
    if layout.recompute != "none":
        raise KibanError(
            f'{file}: recompute = "{layout.recompute}": training keeps all activations; plan with a smaller --batch '
            "or --sequence-length"
        )
    if layout.precision not in DTYPE:
        raise KibanError(
            f'{file}: precision = "{layout.precision}": training computes in {", ".join(DTYPE)}; '
            "plan with --precision bf16"
        )
    decided: dict[str, Any] = {
        "sequence_length": plan.sequence_length,
        "batch_sequences": layout.global_batch,
        "micro_batch_tokens": layout.micro_batch * plan.sequence_length,
        "dtype": DTYPE[layout.precision],
        "mtp": plan.model.num_nextn_predict_layers > 0,
    }
    return decided | ({"preset": plan.preset} if plan.preset else {})
