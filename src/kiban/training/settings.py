"""`[training]`: what determines a training run. What is not set follows from the preset by the rules below."""

import re

from pydantic import Field, field_validator

from kiban.artifacts.stage import Settings
from kiban.model.presets import PRESETS

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_tokens(value: int | str) -> int:
    """`"1.2M"` -> 1200000. Raises ValueError for what is no count of tokens."""
    if isinstance(value, int):
        count = value
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMBT]?)", value.replace("_", ""))
        if not match:
            raise ValueError(f"'{value}' is no number of tokens; write it like 500k, 20M, 1.5B or 15T")
        count = round(float(match[1]) * _UNITS[match[2]])
    if count <= 0:
        raise ValueError("the number of tokens must be more than 0")
    return count


class TrainingSettings(Settings):
    """Settings of the `model` stage. A step reads `batch_sequences` sequences of `sequence_length` tokens."""

    preset: str = "nano"
    tokens: int = 1_000_000
    seed: int = 0
    sequence_length: int | None = Field(None, gt=1)  # None: the preset's context
    batch_sequences: int = Field(8, gt=0)
    learning_rate: float = Field(3e-3, gt=0)
    warmup_share: float = Field(0.05, ge=0, le=1)
    decay_share: float = Field(0.3, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    bias_rate: float = Field(1e-3, ge=0)
    mtp: bool = False
    save_every_seconds: float = Field(60.0, gt=0, exclude=True)
    threads: int = Field(2, gt=0)  # on the CPU the order of sums, and so the last bits, depend on it

    @field_validator("tokens", mode="before")
    @classmethod
    def _tokens(cls, value: int | str) -> int:
        return parse_tokens(value)

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"there is no preset '{name}'; use one of {', '.join(PRESETS)}")
        return name
