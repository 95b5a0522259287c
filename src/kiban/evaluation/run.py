"""Suites against a model, from end to end: what `kiban eval run` and the stage `evaluation` do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kiban.artifacts.errors import KibanError
from kiban.artifacts.intervals import bootstrap_mean
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.evaluation import contamination, engine, statistics
from kiban.evaluation import suite as suites
from kiban.evaluation.answers import Answers
from kiban.evaluation.suite import Item, Suite

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """`limit` bounds the items of a suite. `prompts` are wordings by name, or `all`; `shots` examples (None: as the
    suite has it) drawn by each of `seeds`. `data` is the folder of evaluation sets, `paths` say where the set of a
    suite lies instead. `corpus` is a corpus to measure contamination by, and whose held-back documents are scored."""

    suites: tuple[str, ...]
    limit: int | None = None
    prompts: tuple[str, ...] = ("default",)
    shots: int | None = None
    seeds: tuple[int, ...] = (0,)
    data: Path | None = None
    paths: Mapping[str, Path] = field(default_factory=dict)
    corpus: Path | None = None


@dataclass
class Run:
    """What was found: `metrics` by their full names, `results` for results.json, `rows` for items.jsonl."""

    metrics: dict[str, Metric]
    results: dict[str, Any]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _Way:
    """One way to ask a suite's items."""

    prompt: str
    shots: int
    seed: int


def evaluate(answers: Answers, plan: Plan, progress: Progress) -> Run:
    """Raises KibanError if a set cannot be used, or the model does not answer. What was answered is remembered."""
    chosen: dict[str, tuple[Suite, list[tuple[_Way, list[Item]]]]] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(plan.suites):  # all sets are read before the first question is asked
        found = suites.load(name)
        why = _missing(found, plan) or (
            "the model gives no log-likelihoods" if engine.needs_scores(found) and not answers.model.scores else ""
        )
        if why:
            skipped[name] = why
            progress.say(f"evaluation: {name} is skipped: {why}")
        else:
            chosen[name] = found, _ways(found, plan, progress)
    if not chosen:
        raise KibanError(f"none of the suites can be run: {'; '.join(f'{n}: {w}' for n, w in skipped.items())}")
    held: dict[str, dict[str, Any]] = {}
    if plan.corpus is not None:
        asked = {name: ways[0][1] for name, (found, ways) in chosen.items() if found.rule != "text"}
        progress.say("evaluation: looking for the sets in the corpus")
        held = contamination.report(plan.corpus, asked) if asked else {}
    run = Run({}, {}, [])
    for name, (found, ways) in chosen.items():
        results = []
        for way, items in ways:
            unit = "texts" if found.rule == "text" else "items"
            label = name if len(ways) == 1 else f"{name} ({way.prompt}, {way.shots} shots, seed {way.seed})"
            with progress.task(label, len(items), unit) as task:
                results.append(engine.score(found, items, answers, task.advance))
        described = _describe(found, [(way, items, result) for (way, items), result in zip(ways, results, strict=True)])
        described["contamination"] = held.get(name)
        described["notes"] += answers.model.notes
        run.results[name] = described
        metrics = {key: Metric.model_validate(value) for key, value in described["metrics"].items()}
        run.metrics |= {f"evaluation.{name}.{key}": value for key, value in metrics.items()}
        for (way, _), result in zip(ways, results, strict=True):
            run.rows += [{"suite": name, "way": [way.prompt, way.shots, way.seed], **row} for row in result.rows]
    run.results = {"schema": SCHEMA, "suites": run.results, "skipped": skipped}
    return run


def _missing(found: Suite, plan: Plan) -> str:
    """Why the suite has no items to ask; empty if it has."""
    if found.file is None:
        return "" if plan.corpus else "needs the held-back documents of a corpus; give --corpus"
    path = plan.paths.get(found.name) or found.path(plan.data)
    if found.name in plan.paths and not plan.paths[found.name].exists():
        raise KibanError(f"suite '{found.name}': {plan.paths[found.name]} is not there")
    if path is None or not path.exists():
        return f"needs {found.file} in $KIBAN_DATA/eval, or its path by --set {found.name}=PATH"
    return ""


def _ways(found: Suite, plan: Plan, progress: Progress) -> list[tuple[_Way, list[Item]]]:
    if found.file is None:
        assert plan.corpus is not None
        return [(_Way("default", 0, 0), _held_back(plan.corpus, plan.limit))]
    path = plan.paths.get(found.name) or found.path(plan.data)
    assert path is not None
    wordings = ("default", *found.variants) if "all" in plan.prompts else plan.prompts
    asks = found.rule in ("choice", "scale", "generate") and found.format not in ("keico", "keico-flags")
    shots = (found.shots if plan.shots is None else plan.shots) if asks else 0
    if plan.shots and not asks:
        progress.say(f"evaluation: {found.name} is asked without more examples, its own way")
    seeds = plan.seeds if shots else plan.seeds[:1]
    if len(seeds) < len(plan.seeds):
        progress.say(f"evaluation: {found.name} shows no drawn examples, so that seeds make no difference: asked once")
    ways = []
    for wording in wordings:
        if wording != "default" and wording not in found.variants:
            progress.say(f"evaluation: {found.name} has no prompt '{wording}'; its prompts: default, {_listed(found)}")
            continue
        items = suites.items(found, path, wording)
        if found.rule == "scale":
            items = [replace(item, references=(str(round(item.value or 0)),)) for item in items]
        for seed in seeds:
            way = _Way(wording, shots, seed)
            ways.append((way, suites.sample(suites.with_examples(items, shots, seed), plan.limit)))
    if not ways:
        raise KibanError(f"suite '{found.name}': none of the prompts {', '.join(plan.prompts)} is one of its own")
    return ways


def _listed(found: Suite) -> str:
    return ", ".join(found.variants) or "no other"


def _held_back(corpus: Path, limit: int | None) -> list[Item]:
    """The corpus's held-back documents; `by` is the source, as the domain."""
    import pyarrow.parquet as pq

    path = corpus / "held_back.parquet"
    if not path.is_file():
        raise KibanError(f"{corpus}: no corpus (it has no held_back.parquet); give the folder that one was made in")
    rows = pq.read_table(path, columns=["id", "source", "text"]).to_pylist()
    if not rows:
        raise KibanError(f"{corpus}: holds no document back; raise hold_back in [corpus]")
    return suites.sample([Item(row["id"], row["text"], by=row["source"]) for row in rows], limit)


def _describe(found: Suite, done: Sequence[tuple[_Way, list[Item], engine.Result]]) -> dict[str, Any]:
    """What results.json says of a suite. Of several ways to ask, the means, and between which values they lie."""
    results = [result for _, _, result in done]
    metrics, spread = results[0].metrics, {}
    if len(results) > 1:
        metrics = {}
        for name in results[0].metrics:
            values = [result.metrics[name] for result in results if name in result.metrics]
            mean = float(np.mean([metric.value for metric in values]))
            interval = _interval(found, results) if name == engine.HEADLINE[found.rule] else None
            metrics[name] = Metric(value=mean, unit=values[0].unit, interval=interval, n=values[0].n)
            spread[name] = [min(metric.value for metric in values), max(metric.value for metric in values)]
    return {
        "measures": found.measures,
        "rule": found.rule,
        "headline": engine.HEADLINE[found.rule],
        "chance": found.chance,
        "licence": found.licence,
        "source": found.source,
        "version": found.version,
        "n": len(results[0].rows),
        "metrics": {key: value.model_dump(mode="json") for key, value in metrics.items()},
        "spread": spread,
        "by": {key: value.model_dump(mode="json") for key, value in results[0].by.items()},
        "ways": [
            {
                "prompt": way.prompt,
                "shots": way.shots,
                "seed": way.seed,
                "examples": items[0].examples,
                "metrics": {key: value.model_dump(mode="json") for key, value in result.metrics.items()},
            }
            for way, items, result in done
        ],
        "notes": list(dict.fromkeys(note for result in results for note in result.notes)),
    }


def _interval(found: Suite, results: Sequence[engine.Result]) -> tuple[float, float] | None:
    """Of a mean over ways to ask, by bootstrap over items, each with its mean score."""
    if found.rule not in ("choice", "pairs", "generate", "register"):
        return None
    scores: dict[str, list[float]] = {}
    for result in results:
        for row in result.rows:
            if row["score"] is not None:
                scores.setdefault(row["id"], []).append(row["score"])
    return bootstrap_mean([float(np.mean(values)) for values in scores.values()], engine.SEED)


def compare(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of two models' rows, for every suite that both were asked: how much better the second is, on the same items asked
    in the same ways, with an interval and a p adjusted for the number of suites."""
    tables = [_by_suite(rows) for rows in (first, second)]
    found: dict[str, dict[str, Any]] = {}
    for name in tables[0]:
        if name not in tables[1]:
            continue
        a, b = tables[0][name], tables[1][name]
        both = [key for key in a if key in b and a[key]["score"] is not None and b[key]["score"] is not None]
        if not both:
            continue
        rule, left_out = _columns(a[both[0]]), len(a.keys() | b.keys()) - len(both)
        # Ways to ask the same item are no independent observations: their mean is one.
        ids = list(dict.fromkeys(key[0] for key in both))
        place = {item: row for row, item in enumerate(ids)}
        arrays = []
        for rows in (a, b):
            summed, counts = np.zeros((len(ids), len(rule))), np.zeros((len(ids), 1))
            for key in both:
                summed[place[key[0]]] += [float(rows[key][column]) for column in rule]
                counts[place[key[0]]] += 1
            arrays.append(summed / counts)
        statistic = _STATISTICS[rule]
        apart = statistics.difference(arrays[0], arrays[1], statistic, engine.SEED)
        found[name] = {
            "first": statistic(arrays[0]),
            "second": statistic(arrays[1]),
            "difference": apart.value,
            "interval": list(apart.interval),
            "p": apart.p,
            "n": apart.n,
            "left_out": left_out,
            "lower_is_better": rule == ("bits", "characters"),
        }
    for name, p in zip(found, statistics.holm([row["p"] for row in found.values()]), strict=True):
        found[name]["p_adjusted"] = p
    return found


def _by_suite(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[tuple[Any, ...], Mapping[str, Any]]]:
    tables: dict[str, dict[tuple[Any, ...], Mapping[str, Any]]] = {}
    for row in rows:
        tables.setdefault(row["suite"], {})[(row["id"], *row["way"])] = row
    return tables


def _columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    return ("bits", "characters") if "bits" in row else ("score", "value") if "value" in row else ("score",)


_STATISTICS = {
    ("score",): lambda table: float(table[:, 0].mean()),
    ("bits", "characters"): lambda table: float(table[:, 0].sum() / table[:, 1].sum()),
    ("score", "value"): lambda table: statistics.spearman(table[:, 0], table[:, 1]),
}
