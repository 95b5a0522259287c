"""`[training]`: what determines a training run. What is not set follows from the model by the rules below."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kiban.artifacts.stage import Settings
from kiban.model.config import ModelConfig
from kiban.model.presets import PRESETS

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

# Peak learning rate x hidden size. AdamW's optimum falls with the width (arXiv 2203.03466); the constant is that of
# DeepSeek-V3: 2.2e-4 at 7168 (arXiv 2412.19437, section 4.2).
LEARNING_RATE_WIDTH = 2.2e-4 * 7168

# Tokens a step at hidden size 256, and at most. The batch grows with the cube of the width, from what a laptop learns
# fastest with to the 63M tokens of DeepSeek-V3 at 7168.
BATCH_TOKENS_256 = 4096
MOST_BATCH_TOKENS = 63_000_000

# Muon lets attention logits grow where AdamW does not; the bound is Kimi K2's (arXiv 2507.20534, section 2.1).
QK_CLIP = {"adamw": 0.0, "muon": 100.0}

# From this hidden size on a model computes in bfloat16 (its weights and what is summed stay in float32): below it the
# gain is small on a laptop, and the loss is exact.
LOW_PRECISION_WIDTH = 768


def parse_tokens(value: int | str) -> int:
    """`"1.2M"` -> 1200000. Raises ValueError for what is no count of tokens."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not a number of tokens; write it like 500000, or as text like 500k, 20M, 1.5B or 15T")
    if isinstance(value, int):
        count = value
    else:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMBT]?)", value.replace("_", ""))
        if not match:
            raise ValueError(f"'{value}' is no number of tokens; write it like 500k, 20M, 1.5B or 15T")
        count = round(float(match[1]) * _UNITS[match[2]])
    if count <= 0:
        raise ValueError("the number of tokens must be more than 0")
    return count


class TrainingSettings(Settings):
    """Settings of the `model` stage. A step reads `batch_sequences` sequences of `sequence_length` tokens. A run is as
    many whole steps as there are in `tokens`, at least one."""

    preset: str = "nano"
    tokens: int = 1_000_000
    seed: int = 0
    sequence_length: int | None = Field(default=None, gt=1)  # None: the preset's context
    batch_sequences: int | None = Field(default=None, gt=0)  # None: by BATCH_TOKENS_256
    micro_batch_tokens: int = Field(
        default=16_384, gt=0
    )  # a larger batch is taken in parts, so that its activations fit
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float | None = Field(default=None, gt=0)  # at its peak; None: by LEARNING_RATE_WIDTH
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    decay_share: float = Field(default=0.3, ge=0, le=1)  # of wsd
    weight_decay: float = Field(default=0.1, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    bias_rate: float = Field(default=1e-3, ge=0)
    balance_weight: float = Field(default=0.0, ge=0)  # of the sequence-wise balance loss; DeepSeek-V3 had 1e-4
    qk_clip: float | None = Field(default=None, ge=0)  # the largest attention logit; None: 100 with muon, else 0 (off)
    mtp: bool = False
    mask_documents: bool = False  # attention does not reach over the beginning of a document
    dtype: Literal["float32", "bfloat16"] | None = None  # of products and activations; None: by LOW_PRECISION_WIDTH
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    on_spike: Literal["ignore", "stop", "skip", "rollback"] = "ignore"
    save_every_seconds: float = Field(default=60.0, gt=0, exclude=True)
    rank_timeout_seconds: float = Field(default=600.0, gt=0, exclude=True)  # of several ranks: when one counts as hung
    keep_checkpoints: int = Field(default=2, gt=0, exclude=True)
    permanent_every: int | None = Field(default=None, gt=0, exclude=True)  # steps; those checkpoints stay for good
    threads: int = Field(default=2, gt=0)  # on the CPU the order of sums, and so the last bits, depend on it

    @field_validator("tokens", mode="before")
    @classmethod
    def _tokens(cls, value: int | str) -> int:
        return parse_tokens(value)

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PRESETS and not name.isdecimal():
            raise ValueError(f"there is no preset '{name}'; use one of {', '.join(PRESETS)}, or a width such as 192")
        return name

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        if self.schedule == "cosine" and "decay_share" in self.model_fields_set:
            raise ValueError('decay_share has no effect with schedule = "cosine"; leave it out')
        return self

    def resolved(self, config: ModelConfig) -> "TrainingSettings":
        """With every None replaced by what its rule gives for `config`."""
        length = self.sequence_length or config.max_position_embeddings
        batch_tokens = min(BATCH_TOKENS_256 * (config.hidden_size / 256) ** 3, MOST_BATCH_TOKENS)
        return self.model_copy(
            update={
                "sequence_length": length,
                "batch_sequences": self.batch_sequences or max(1, round(batch_tokens / length)),
                "qk_clip": self.qk_clip if self.qk_clip is not None else QK_CLIP[self.optimiser],
                "dtype": self.dtype or ("float32" if config.hidden_size < LOW_PRECISION_WIDTH else "bfloat16"),
                "learning_rate": self.learning_rate or LEARNING_RATE_WIDTH / config.hidden_size,
            }
        )
