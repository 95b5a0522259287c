"""The manifest: what an artifact is, what it was made from, under which rights, by what, and what was measured."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.artifacts.rights import Rights

SCHEMA = 1
MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Metric(_Record):
    """A measured figure. `interval` is a 95 % confidence interval, `n` the number of observations behind it."""

    value: float = Field(allow_inf_nan=False)
    unit: str
    interval: tuple[float, float] | None = None
    n: int | None = None


class FileRecord(_Record):
    sha256: str
    bytes: int


class Code(_Record):
    """`stage` is `name/version`: the version rises when the same inputs would give another result."""

    kiban: str
    stage: str


class Made(_Record):
    """Circumstances: not part of the address."""

    at: str
    seconds: float
    peak_bytes: int
    hardware: str


class Manifest(_Record):
    schema_: int = Field(SCHEMA, alias="schema")
    kind: str
    address: str
    name: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    external: dict[str, str] = Field(default_factory=dict)
    code: Code
    rights: Rights
    files: dict[str, FileRecord]
    metrics: dict[str, Metric]
    consumed: dict[str, Any] = Field(default_factory=dict)
    made: Made


def address_of(stage: str, settings: dict[str, Any], inputs: dict[str, str], external: dict[str, str]) -> str:
    """The address of what `stage` (`name/version`) makes: a hash of all that determines it.

    `external` maps the names of files outside the store that the stage reads to their sha256.
    """
    determined = {"stage": stage, "settings": settings, "inputs": inputs, "external": external}
    return "sha256:" + sha256_bytes(canonical_json(determined))
