"""A stage: a function from settings and input artifacts to one output artifact, with its name on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kiban.artifacts.manifest import Metric
from kiban.artifacts.rights import USES, Rights


class Settings(BaseModel):
    """Base of every stage's settings. A field with `Field(exclude=True)` says where or how, not what: it does not enter
    the address."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass
class Outcome:
    """What a stage gives back: figures, and what it consumed of its inputs (such as the range of sequences read)."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    consumed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """See `stage`."""

    name: str
    inputs: tuple[str, ...]
    version: int
    use: str | None
    external: Callable[[Any], list[Path]] | None
    rights: Callable[[Any], Rights] | None
    rights_left: Callable[[Any, Sequence[Settings]], Rights] | None
    function: Callable[..., Outcome]

    @property
    def code(self) -> str:
        return f"{self.name}/{self.version}"


def stage(
    name: str,
    inputs: tuple[str, ...] = (),
    version: int = 1,
    use: str | None = None,
    external: Callable[[Any], list[Path]] | None = None,
    rights: Callable[[Any], Rights] | None = None,
    rights_left: Callable[[Any, Sequence[Settings]], Rights] | None = None,
) -> Callable[[Callable[..., Outcome]], Stage]:
    """Makes a stage of `f(settings, *inputs, out, progress) -> Outcome`.

    The runner gives it resolved inputs (an `Artifact` each, or a list of them), a folder `out`, and a progress
    reporter. `out` is kept when a run is interrupted and handed over again: a stage finds there what it left. Scratch
    goes under `out/".work"`, which also outlives an error, and is removed before the artifact is sealed.

    Args:
        version: raise it when the same settings and inputs would give another result.
        use: the use (see `rights.USES`) that every input must grant.
        external: files outside the store that the stage reads, from its settings. Their digests enter the address.
        rights: for a stage that brings data in: the terms it comes under, from its settings.
        rights_left: for a stage that leaves out what does not grant enough: the meet of the terms of what is left, from
            its settings and those of its inputs. All others get the meet of their inputs' rights.
    """
    assert use is None or use in USES

    def make(function: Callable[..., Outcome]) -> Stage:
        return Stage(name, inputs, version, use, external, rights, rights_left, function)

    return make
