"""The robot: how often it did what a Japanese sentence asked, and what that looked like."""

import base64
from typing import Any

from kiban.artifacts.store import Artifact
from kiban.console.labels import task
from kiban.console.sections.evaluation import measured
from kiban.console.sections.reading import figures, json_of
from kiban.console.sections.training import curves
from kiban.console.words import Both

# Of all films together, before base64, so that the report can be mailed. What exceeds it is left out, animations first.
MOST_FILM_BYTES = 3_000_000


CURVES = {
    "loss": Both(
        "方策の損失（正規化した動作の平均二乗誤差）。横軸はステップ",
        "Loss of the policy (mean squared error of normalised actions) over steps",
    )
}


def robot(demonstrations: Artifact | None, policy: Artifact | None, rollout: Artifact | None) -> dict[str, Any] | None:
    """Figures of what there is, the policy's loss, success rates by task, and the films."""
    if demonstrations is None and policy is None and rollout is None:
        return None
    labels = {
        "demonstrations.episodes": Both("実演エピソード数", "Demonstrated episodes"),
        "demonstrations.frames": Both("実演フレーム数", "Demonstrated frames"),
        "demonstrations.expert_success_rate": Both("手本の成功率", "Success rate of the expert"),
        "policy.parameters": Both("方策のパラメータ数", "Parameters of the policy"),
        "policy.frames_per_s": Both("方策の学習速度（フレーム/秒）", "Training speed of the policy (frames/s)"),
        "rollout.wording_gap": Both(
            "初めて読む言い回しで下がる成功率", "Success rate lost to wordings never read before"
        ),
        "rollout.interventions_per_episode": Both(
            "安全装置の介入（回/エピソード）", "Interventions of the safety filter per episode"
        ),
    }
    made = [artifact for artifact in (demonstrations, policy, rollout) if artifact is not None]
    films, left_out = _films(rollout) if rollout is not None else ([], [])
    return {
        "figures": [row for artifact in made for row in figures(artifact, labels)],
        "curves": curves(policy, CURVES) if policy is not None else [],
        "success": _success(rollout) if rollout is not None else None,
        "films": films,
        "left_out": left_out,
    }


def _success(rollout: Artifact) -> dict[str, Any]:
    """The tasks in the programme's order, then all of them."""
    names = {f"rollout.{name}.success_rate": task(name) for name in rollout.settings["tasks"]}
    names["rollout.success_rate"] = Both("すべての課題", "All tasks")
    return {
        "caption": Both(
            "課題ごとの成功率（実演にはない言い回しで指示）",
            "Success rate by task, asked in wordings that no demonstration has",
        ),
        "scale": "0–100%",
        "chance": False,
        "rows": [measured(label, rollout.metrics[name]) for name, label in names.items() if name in rollout.metrics],
    }


def _films(rollout: Artifact) -> tuple[list[dict[str, Any]], list[str]]:
    """The films as data URIs, and the names of those that did not fit."""
    files = {name: record.bytes for name, record in rollout.manifest.files.items() if name.startswith("films/")}
    room = MOST_FILM_BYTES
    pictures: dict[str, str] = {}
    left_out = []
    for name in sorted(files, key=lambda name: (name.endswith(".gif"), name)):
        if files[name] > room:
            left_out.append(name)
            continue
        room -= files[name]
        content = base64.b64encode((rollout.path / name).read_bytes()).decode()
        pictures[name] = f"data:image/{name.rsplit('.', 1)[1]};base64,{content}"
    filmed = (json_of(rollout, "episodes.json") or {}).get("films", {})
    shown = [_film(name, filmed[name], pictures) for name in rollout.settings["tasks"] if name in filmed]
    return shown, left_out


def _film(name: str, film: dict[str, Any], pictures: dict[str, str]) -> dict[str, Any]:
    label, sentence = task(name), film["instruction"]
    told = Both("成功", "success") if film["success"] else Both("失敗", "failure")
    chosen = (
        Both("最初に成功したエピソード", "The first episode that succeeded")
        if film["success"]
        else Both("成功したエピソードはなく、最初のエピソードを示す", "No episode succeeded; this is the first")
    )
    return {
        "task": label,
        "instruction": sentence,
        "strip": pictures.get(f"films/{name}.png"),
        "motion": pictures.get(f"films/{name}.gif"),
        "alt": Both(
            f"「{sentence}」という指示に対するロボットの動き（{told.ja}）",
            f"What the robot did when asked 「{sentence}」 ({told.en})",
        ),
        "note": Both(f"{chosen.ja}（{film['number'] + 1}番目）", f"{chosen.en} (number {film['number'] + 1})"),
    }
