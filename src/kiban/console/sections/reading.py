"""How sections read artifacts: a file that is not there is None, a figure that was not measured is left out."""

from collections.abc import Mapping
from typing import Any

from kiban.artifacts.files import read_json
from kiban.artifacts.store import Artifact
from kiban.console.words import Both, number


def json_of(artifact: Artifact, name: str) -> Any:
    return read_json(artifact.path / name) if name in artifact.manifest.files else None


def figures(artifact: Artifact, labels: Mapping[str, Both]) -> list[tuple[Both, Both]]:
    """(label, figure) of the metrics that were measured. The label says what is counted."""
    return [
        (label, number(artifact.metrics[name].value, artifact.metrics[name].unit))
        for name, label in labels.items()
        if name in artifact.metrics
    ]
