"""The key figure of every kind of artifact: one table, for the report and for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from kiban.artifacts.store import Artifact
from kiban.console.words import Both, filled, quantity, same, short


@dataclass(frozen=True)
class Kind:
    """Its name, and a sentence with its key figure: `{metric}` in its unit, `{#metric}` as a bare number."""

    name: Both
    key: Both


KINDS: dict[str, Kind] = {
    "source": Kind(
        Both("出典", "Source"),
        Both("{#source.files} ファイル、{source.bytes}", "{#source.files} files, {source.bytes}"),
    ),
    "corpus": Kind(
        Both("コーパス", "Corpus"),
        Both(
            "{#corpus.documents_in} 文書のうち {#corpus.documents_kept} 文書を採用",
            "{#corpus.documents_kept} of {#corpus.documents_in} documents kept",
        ),
    ),
    "tokenizer": Kind(
        Both("トークナイザー", "Tokenizer"),
        Both(
            "語彙 {#tokenizer.vocabulary}、{tokenizer.characters_per_token}",
            "vocabulary {#tokenizer.vocabulary}, {tokenizer.characters_per_token}",
        ),
    ),
    "tokens": Kind(Both("トークン列", "Tokens"), Both("{#tokens.total} トークン", "{#tokens.total} tokens")),
    "model": Kind(
        Both("モデル", "Model"),
        Both(
            "損失 {#training.loss}、{#training.parameters} パラメータ",
            "loss {#training.loss}, {#training.parameters} parameters",
        ),
    ),
    "export": Kind(
        Both("書き出し", "Export"), Both("Hugging Face 形式、{export.bytes}", "Hugging Face layout, {export.bytes}")
    ),
    "evaluation": Kind(
        Both("評価", "Evaluation"),
        Both(
            "1字あたり {#evaluation.bits-per-character.all} ビット",
            "{#evaluation.bits-per-character.all} bits per character",
        ),
    ),
    "demonstrations": Kind(
        Both("実演", "Demonstrations"),
        Both(
            "{#demonstrations.episodes} エピソード、手本の成功率 {demonstrations.expert_success_rate}",
            "{#demonstrations.episodes} episodes, expert succeeds in {demonstrations.expert_success_rate}",
        ),
    ),
    "policy": Kind(
        Both("方策", "Policy"),
        Both(
            "損失 {#policy.loss}、{#policy.parameters} パラメータ",
            "loss {#policy.loss}, {#policy.parameters} parameters",
        ),
    ),
    "rollout": Kind(
        Both("実行試験", "Rollout"), Both("成功率 {rollout.success_rate}", "success rate {rollout.success_rate}")
    ),
    "milestones": Kind(
        Both("マイルストーン", "Milestones"),
        Both(
            "達成 {#milestones.met}、一部達成 {#milestones.partly_met}、未達 {#milestones.not_met}",
            "{#milestones.met} met, {#milestones.partly_met} partly met, {#milestones.not_met} not met",
        ),
    ),
}


def stage_name(artifact: Artifact) -> str:
    """Its name within the programme: `source.aozora` of `open-text/source.aozora`."""
    return artifact.name.split("/", 1)[-1]


def title(artifact: Artifact) -> Both:
    """What a person calls it: the kind, and which one where there are several."""
    kind = KINDS[artifact.kind].name if artifact.kind in KINDS else same(artifact.kind)
    which = stage_name(artifact).partition(".")[2]
    return Both(f"{kind.ja} {which}", f"{kind.en} {which}") if which else kind


def key_figure(artifact: Artifact) -> Both:
    """The key figure in a few words; the first figure there is, where the one that the table names was not measured."""
    values: dict[str, Both] = {}
    for name, metric in artifact.metrics.items():
        values[name] = quantity(metric.value, metric.unit)
        values["#" + name] = short(metric.value)
    try:
        return filled(KINDS[artifact.kind].key, values)
    except KeyError:
        pass
    for name, metric in artifact.metrics.items():
        figure = quantity(metric.value, metric.unit)
        return Both(f"{name} {figure.ja}", f"{name} {figure.en}")
    return same("")


MOST_SOURCES = 3


@dataclass(frozen=True)
class Row:
    """A line of the summary. `stage` is the name that the command line knows."""

    stage: str
    title: Both
    key: Both
    seconds: float


def summary(artifacts: Sequence[Artifact]) -> list[Row]:
    """A row for every artifact; many sources share one, so that the summary stays one screen."""
    sources = [artifact for artifact in artifacts if artifact.kind == "source"]
    shown = [artifact for artifact in artifacts if artifact.kind != "source" or len(sources) <= MOST_SOURCES]
    rows = [Row(stage_name(a), title(a), key_figure(a), a.manifest.made.seconds) for a in shown]
    if len(sources) > MOST_SOURCES:
        count = Both(f"{len(sources)} 件", f"{len(sources)} sources")
        seconds = sum(source.manifest.made.seconds for source in sources)
        rows.insert(0, Row("source.*", KINDS["source"].name, count, seconds))
    return rows
