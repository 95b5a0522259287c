"""The tokenizer, the model's training, and what the model writes."""

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from kiban.artifacts.store import Artifact
from kiban.console import charts
from kiban.console.labels import register
from kiban.console.sections.reading import figures, json_of
from kiban.console.words import Both, duration, quantity, same

CURVES = {
    "loss": Both(
        "損失（nat/トークン）。横軸はステップ。細い線は各ステップの値、太い線は平均",
        "Loss (nats/token) over steps. Thin: every step; thick: running mean",
    ),
    "lr": Both("学習率", "Learning rate"),
    "tokens_per_s": Both("速度（トークン/秒）", "Speed (tokens/s)"),
}


def tokenizer(artifact: Artifact | None, tokens: Artifact | None) -> list[tuple[Both, Both]] | None:
    if artifact is None:
        return None
    rows = figures(
        artifact,
        {
            "tokenizer.vocabulary": Both("語彙の大きさ", "Vocabulary"),
            "tokenizer.characters_per_token": Both("1トークンあたりの字数", "Characters per token"),
            "tokenizer.bytes_per_token": Both("1トークンあたりのバイト数", "Bytes per token"),
        },
    )
    if tokens is None:
        return rows
    return rows + figures(
        tokens,
        {
            "tokens.total": Both("学習用トークン数", "Tokens for training"),
            "tokens.documents": Both("文書数", "Documents"),
        },
    )


def training(artifact: Artifact | None) -> dict[str, Any] | None:
    """Figures, curves from log.jsonl, and generations from samples.json."""
    if artifact is None:
        return None
    rows = figures(
        artifact,
        {
            "training.parameters": Both("パラメータ数", "Parameters"),
            "training.active_parameters": Both("うち1トークンで働く数", "Active per token"),
            "training.tokens": Both("学習したトークン数", "Tokens trained on"),
            "training.steps": Both("ステップ数", "Steps"),
            "training.loss": Both("最終損失（nat/トークン）", "Final loss (nats/token)"),
            "training.tokens_per_s": Both("速度（トークン/秒）", "Speed (tokens/s)"),
            "training.mfu": Both("演算効率（MFU）", "Model FLOPs utilisation"),
        },
    )
    made = artifact.manifest.made
    return {
        "figures": [
            (Both("規模", "Preset"), same(str(artifact.settings.get("preset", "")))),
            *rows,
            (Both("所要時間", "Time"), duration(made.seconds)),
            (Both("メモリの最大使用量", "Peak memory"), quantity(made.peak_bytes, "bytes")),
        ],
        "curves": curves(artifact, CURVES),
        "samples": _samples(artifact),
    }


def _samples(artifact: Artifact) -> list[dict[str, Any]]:
    """Every opening with its continuations, in the file's order."""
    by_opening: dict[tuple[str, str], list[tuple[Both, str]]] = {}
    for sample in json_of(artifact, "samples.json") or []:
        heat = sample["temperature"]
        how = Both(f"温度{heat:g}", f"temperature {heat:g}") if heat else Both("最尤の語を選択", "greedy")
        by_opening.setdefault((sample["register"], sample["prompt"]), []).append((how, sample["text"].rstrip()))
    return [
        {"register": register(name), "prompt": prompt, "continuations": continuations}
        for (name, prompt), continuations in by_opening.items()
    ]


def curves(artifact: Artifact, captions: Mapping[str, Both]) -> list[tuple[str, Both, Markup]]:
    """(id, caption, chart) of those columns of log.jsonl over its steps, each where the log has two points of it."""
    if "log.jsonl" not in artifact.manifest.files:
        return []
    with (artifact.path / "log.jsonl").open(encoding="utf-8") as file:
        log = [json.loads(line) for line in file]
    found = []
    for key, caption in captions.items():
        rows = [row for row in log if key in row]
        if len(rows) < 2:
            continue
        xs, ys = charts.thinned([row["step"] for row in rows], [row[key] for row in rows])
        name = f"{artifact.kind}-{key}"
        if key == "loss":
            lines = [("raw", ys), ("smooth", charts.smoothed(ys, len(ys) // 40))]
            chart = charts.line_chart(xs, lines, 280, name)
        else:
            chart = charts.line_chart(xs, [("smooth thin", ys)], 130, name, zero=True)
        found.append((name, caption, chart))
    return found
