"""The programme's own finished runs, as a scaling law takes them: from the store and from `history.json`."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiban.artifacts.files import read_json
from kiban.artifacts.lineage import ancestors
from kiban.artifacts.manifest import Metric
from kiban.artifacts.store import Artifact
from kiban.model.config import ModelConfig
from kiban.planning.scaling import Observed

MOST_EPOCHS = 4  # up to which data seen again is nearly as good as new data (arXiv 2305.16264, section 5)


@dataclass(frozen=True)
class OwnRun:
    """`alike`: what runs must have in common for one law to hold for them. `metrics`: what was measured on the model,
    by its training and later."""

    observed: Observed
    preset: str
    vocabulary: int
    alike: tuple[Any, ...]
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Gathered:
    runs: list[OwnRun]  # alike, smallest compute first
    left_out: list[tuple[str, str]]  # (run, why)


def of_store(artifacts: Iterable[Artifact]) -> Gathered:
    """Every model of the store; metrics of an artifact that was made from one model alone are that model's."""
    every = list(artifacts)
    models = {artifact.address: artifact for artifact in every if artifact.kind == "model"}
    metrics = {address: dict(artifact.metrics) for address, artifact in models.items()}
    for artifact in every:
        above = [a.address for a in ancestors(artifact, every) if a.kind == "model"]
        if artifact.kind != "model" and len(above) == 1:
            metrics[above[0]].update(artifact.metrics)
    runs, left_out = [], list[tuple[str, str]]()
    for address, artifact in models.items():
        settings, consumed = artifact.manifest.settings, artifact.manifest.consumed
        figures = {name: artifact.metrics[name].value for name in artifact.metrics}
        name = f"{settings.get('preset')} {figures.get('training.tokens', 0):.3g} {address[7:14]}"
        reason = _unfit(figures, consumed)
        if reason:
            left_out.append((name, reason))
            continue
        config = ModelConfig.model_validate(read_json(artifact.path / "config.json"))
        observed = Observed(name, config.parameters().active, figures["training.tokens"], figures["training.loss"])
        alike = (artifact.manifest.inputs.get("tokens"), settings.get("optimiser"), settings.get("schedule"))
        runs.append(OwnRun(observed, str(settings.get("preset")), config.vocab_size, alike, metrics[address]))
    return _alike(runs, left_out)


def of_history(rows: Sequence[Mapping[str, Any]]) -> Gathered:
    """Runs of `kiban train --plan`."""
    runs, left_out = [], list[tuple[str, str]]()
    for row in rows:
        name, measured, data = str(row.get("name")), row.get("measured") or {}, row.get("data") or {}
        figures = {"training.loss": measured.get("loss"), "training.tokens": measured.get("tokens")}
        reason = _unfit(figures, data)
        if reason:
            left_out.append((name, reason))
            continue
        model = row["model"]
        observed = Observed(name, model["active_params"], measured["tokens"], measured["loss"])
        alike = (data.get("digest"), data.get("optimiser"), data.get("schedule"))
        metric = {"training.loss": Metric(value=measured["loss"], unit="nats/token")}
        runs.append(OwnRun(observed, f"width {model['hidden']}", model["vocab"], alike, metric))
    return _alike(runs, left_out)


def _unfit(figures: Mapping[str, float | None], consumed: Mapping[str, Any]) -> str | None:
    loss, tokens = figures.get("training.loss"), figures.get("training.tokens")
    if not tokens or loss is None:
        return "its record has no loss or no number of tokens"
    if not math.isfinite(loss) or loss <= 0:
        return f"its loss is {loss}"
    read, there = consumed.get("sequences"), consumed.get("num_sequences")
    if read and there and read[1] > MOST_EPOCHS * there:
        return f"it read its data {read[1] / there:.1f} times, more than the {MOST_EPOCHS} that a law holds for"
    return None


def _alike(runs: list[OwnRun], left_out: list[tuple[str, str]]) -> Gathered:
    groups = defaultdict[tuple[Any, ...], list[OwnRun]](list)
    for run in runs:
        groups[run.alike].append(run)
    if not groups:
        return Gathered([], left_out)
    chosen = max(groups.values(), key=len)
    for run in runs:
        if run.alike != chosen[0].alike:
            same = "trained otherwise" if run.alike[0] == chosen[0].alike[0] else "trained on other data"
            left_out.append((run.observed.name, f"{same} than the {len(chosen)} runs of the law"))
    return Gathered(sorted(chosen, key=lambda run: run.observed.flops), left_out)
