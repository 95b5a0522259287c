"""`[[partner]]` and `[[milestone]]` in kiban.toml."""

import datetime

from pydantic import Field, model_validator

from kiban.artifacts.stage import Settings


class Partner(Settings):
    """An organisation. `public_key` is a PEM file (Ed25519), relative to kiban.toml; the private key is elsewhere."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    public_key: str | None = None


class Criterion(Settings):
    """A bound on a metric that some manifest holds."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "Criterion":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"criterion '{self.metric}': give one of at_least and at_most")
        return self

    @property
    def bound(self) -> float:
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None
        return bound

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least is not None else value <= self.bound


class Approvers(Settings):
    """Of these partners, `quorum` must sign."""

    of: tuple[str, ...]
    quorum: int = Field(ge=1)

    @model_validator(mode="after")
    def _possible(self) -> "Approvers":
        if len(set(self.of)) != len(self.of):
            raise ValueError("approvers: a partner is named twice")
        if self.quorum > len(self.of):
            raise ValueError(f"approvers: a quorum of {self.quorum} of {len(self.of)} cannot be reached")
        return self


class Milestone(Settings):
    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    due: datetime.date
    tranche_jpy: int = Field(ge=0)
    approvers: Approvers
    criteria: tuple[Criterion, ...] = Field(min_length=1)
