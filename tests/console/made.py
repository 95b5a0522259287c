"""A small programme's artifacts, made by hand through the store: every kind, with the files that the report reads."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from kiban.artifacts.files import write_json
from kiban.artifacts.manifest import Code, Made, Manifest, Metric, address_of
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights, meet, obligations_of
from kiban.artifacts.store import Artifact, Store
from kiban.milestones.plan import prepare
from kiban.milestones.settings import Approvers, Criterion, Milestone, Partner
from kiban.milestones.stage import MilestonesSettings, milestones

HOSTILE = "<script>alert('危険')</script>\"'><img src=x onerror=alert(1)>"
TASKS = {"reach": (0.95, (0.76, 0.99)), "push": (0.70, (0.48, 0.85)), "pick": (0.55, (0.34, 0.74))}


class Maker:
    """Seals artifacts of a programme called `small`."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.made: dict[str, Artifact] = {}

    def make(
        self,
        name: str,
        inputs: dict[str, str] | None = None,
        metrics: dict[str, Metric] | None = None,
        settings: dict[str, Any] | None = None,
        rights: Rights | None = None,
        write: Any = None,
        seconds: float = 12.5,
    ) -> Artifact:
        kind = name.split(".")[0]
        parents = {parameter: self.made[parent].address for parameter, parent in (inputs or {}).items()}
        address = address_of(f"{kind}/1", settings or {}, parents, {"name": name})
        with self.store.making(address) as out:
            if write:
                write(out)
            manifest = Manifest(
                schema_=1,
                kind=kind,
                address=address,
                name=f"small/{name}",
                inputs=parents,
                settings=settings or {},
                code=Code(kiban="0.1.0", stage=f"{kind}/1"),
                rights=rights or meet(self.made[parent].rights for parent in (inputs or {}).values()),
                files={},
                metrics={} if metrics is None else metrics,
                made=Made(
                    at="2027-01-05T03:04:05Z", seconds=seconds, peak_bytes=512 << 20, hardware="A processor, 2 cores"
                ),
            )
            self.made[name] = self.store.seal(out, manifest)
        return self.made[name]


def small_programme(root: Path, without: tuple[str, ...] = ()) -> list[Artifact]:
    """Every artifact of a programme over three sources, but for the kinds in `without`."""
    maker = Maker(root)
    _sources(maker)
    _corpus(maker)
    _text_model(maker)
    _evaluation(maker)
    _robot(maker)
    _milestones(maker)
    return [artifact for artifact in maker.made.values() if artifact.kind not in without]


def _metric(value: float, unit: str, interval: tuple[float, float] | None = None, n: int | None = None) -> Metric:
    return Metric(value=value, unit=unit, interval=interval, n=n)


def _sources(maker: Maker) -> None:
    for name, partner, licence in (
        ("aozora", "content", "public-domain"),
        ("react-docs", "research", "CC-BY-4.0"),
        ("dialogue", "content", "CC-BY-SA-4.0"),
    ):
        maker.make(
            f"source.{name}",
            metrics={"source.files": _metric(3, "files"), "source.bytes": _metric(1.7e7, "bytes")},
            settings={"name": name, "partner": partner, "licence": licence},
            rights=Rights(
                uses=frozenset({"pretrain", "evaluate", "serve"}),
                residency=frozenset({"JP"} if name == "dialogue" else {"*"}),
                obligations=obligations_of(licence, name) | ({"no-identification"} if name == "dialogue" else set()),
            ),
            seconds=0.4,
        )


def _corpus(maker: Maker) -> None:
    counts = {
        "aozora": (4000, 3300, 40, 5_100_000, 4_600_000, {"duplicate_exact": 400, "mojibake": 260}),
        "react-docs": (900, 800, 10, 1_200_000, 1_050_000, {"duplicate_near": 60, "few_kana": 30}),
        "dialogue": (1100, 1060, 11, 800_000, 790_000, {"contaminated": 29}),
    }
    summary: dict[str, Any] = {}
    totals: dict[str, float] = {}
    for name, (came, kept, held, characters_in, characters_kept, dropped) in counts.items():
        summary[name] = {
            "documents_in": came,
            "documents_kept": kept,
            "documents_held_back": held,
            "characters_in": characters_in,
            "characters_kept": characters_kept,
            "dropped": dropped,
            "masked": {"phone": 12, "email": 3} if name == "dialogue" else {},
        }
        for key, value in summary[name].items():
            if isinstance(value, dict):
                for part, number in value.items():
                    totals[f"{key}.{part}"] = totals.get(f"{key}.{part}", 0) + number
            else:
                totals[key] = totals.get(key, 0) + value

    def write(out: Path) -> None:
        write_json(out / "summary.json", {"sources": summary})
        rows = [
            {
                "id": f"{i:032x}",
                "source": "aozora",
                "uri": f"cards/{i}.txt",
                "title": HOSTILE if i == 0 else f"ある日の記録 {i}",
                "reason": ("mojibake", "duplicate_exact", "few_kana", "a_reason_of_tomorrow")[i % 4],
                "score": 0.031 * i,
                "detail": "mojibake_share 0.031 > 0.02",
                "characters": 1200 + i,
            }
            for i in range(24)
        ]
        pq.write_table(pa.Table.from_pylist(rows), out / "ledger.parquet", compression="zstd")

    units = {"characters_in": "characters", "characters_kept": "characters"}
    maker.make(
        "corpus",
        {f"sources.{name}": f"source.{name}" for name in counts},
        {f"corpus.{name}": _metric(value, units.get(name, "documents")) for name, value in totals.items()},
        write=write,
        seconds=74,
    )


def _text_model(maker: Maker) -> None:
    maker.make(
        "tokenizer",
        {"corpus": "corpus"},
        {
            "tokenizer.vocabulary": _metric(8192, "entries"),
            "tokenizer.characters_per_token": _metric(1.834, "characters/token"),
            "tokenizer.bytes_per_token": _metric(5.21, "bytes/token"),
        },
    )
    maker.make(
        "tokens",
        {"corpus": "corpus", "tokenizer": "tokenizer"},
        {"tokens.total": _metric(3_412_551, "tokens"), "tokens.documents": _metric(5160, "documents")},
    )

    def write(out: Path) -> None:
        with (out / "log.jsonl").open("w") as log:
            for step in range(1, 1201):
                loss = 3.2 + 5.8 * math.exp(-step / 160) + 0.15 * math.sin(step * 1.7) * math.cos(step / 3)
                lr = 3e-3 * min(1, step / 60, (1201 - step) / 360)
                line = {"step": step, "loss": loss, "lr": lr, "tokens_per_s": 4100 + 200 * math.sin(step)}
                log.write(json.dumps(line) + "\n")
        samples = [
            (
                "business mail",
                "いつもお世話になっております。",
                "先日ご依頼いただきました件は、明日までにご連絡いたします。",
            ),
            ("work instruction", "作業を始める前に、", "電源を切り、\n安全靴を着用してください。" + HOSTILE),
            ("a register of tomorrow", "春になると、", "川沿いの道に桜が咲き、町の人々が集まって来る。"),
        ]
        rows = [
            {"register": register, "prompt": prompt, "text": text, "temperature": temperature, "seed": 0}
            for register, prompt, text in samples
            for temperature in (0.8, 0.0)
        ]
        write_json(out / "samples.json", rows)

    maker.make(
        "model",
        {"tokens": "tokens", "tokenizer": "tokenizer"},
        {
            "training.loss": _metric(3.2142, "nats/token"),
            "training.tokens": _metric(1_200_000, "tokens"),
            "training.steps": _metric(1200, "steps"),
            "training.tokens_per_s": _metric(4100.2, "tokens/s"),
            "training.mfu": _metric(0.412, "share"),
            "training.parameters": _metric(8_212_480, "parameters"),
            "training.active_parameters": _metric(3_104_000, "parameters"),
        },
        settings={"preset": "nano", "tokens": 1_200_000},
        write=write,
        seconds=287,
    )
    maker.make(
        "export",
        {"model": "model", "tokenizer": "tokenizer"},
        {"export.bytes": _metric(33_000_000, "bytes"), "export.tensors": _metric(140, "tensors")},
    )


def _evaluation(maker: Maker) -> None:
    scores = {
        "bits-per-character": {
            "all": _metric(3.412, "bits/character", (3.35, 3.48), 61),
            "dialogue": _metric(3.9, "bits/character", (3.7, 4.1), 11),
        },
        "keigo": {"accuracy": _metric(0.71, "share", (0.63, 0.78), 140)},
        "joshi": {"accuracy": _metric(0.58, "share", (0.49, 0.66), 120)},
    }
    groups = {
        "keigo": {
            "尊敬語": _metric(0.75, "share", (0.64, 0.83), 70),
            "謙譲語": _metric(0.67, "share", (0.55, 0.77), 70),
        }
    }

    def write(out: Path) -> None:
        suites = {
            name: {
                "measures": "what it measures",
                "chance": None if name == "bits-per-character" else 0.5,
                "licence": "Apache-2.0",
                "source": "kiban",
                "n": 61,
                "contamination": None
                if name == "bits-per-character"
                else {"items_held": 2, "items": 61, "documents": 3, "documents_left_out": 4},
                "metrics": {key: metric.model_dump(mode="json") for key, metric in metrics.items()},
                "by": {key: metric.model_dump(mode="json") for key, metric in groups.get(name, {}).items()},
            }
            for name, metrics in scores.items()
        }
        write_json(out / "results.json", {"suites": suites, "skipped": {"keico": "needs a file"}})

    maker.make(
        "evaluation",
        {"export": "export", "corpus": "corpus"},
        {f"evaluation.{name}.{key}": metric for name, metrics in scores.items() for key, metric in metrics.items()},
        write=write,
        seconds=31,
    )


def _robot(maker: Maker) -> None:
    maker.make(
        "demonstrations",
        metrics={
            "demonstrations.episodes": _metric(300, "episodes"),
            "demonstrations.frames": _metric(12_400, "frames"),
            "demonstrations.expert_success_rate": _metric(0.97, "success rate", None, 310),
        },
        rights=Rights(),
        seconds=40,
    )

    def write_log(out: Path) -> None:
        lines = [{"step": 50 * i, "loss": 0.9 / i + 0.08, "learning_rate": 1e-3} for i in range(1, 25)]
        (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    maker.make(
        "policy",
        {"demonstrations": "demonstrations", "export": "export"},
        {
            "policy.loss": _metric(0.117, "mean squared error of normalised actions"),
            "policy.parameters": _metric(910_000, "parameters"),
            "policy.frames_per_s": _metric(1240, "frames/s"),
        },
        write=write_log,
        seconds=130,
    )

    def write(out: Path) -> None:
        (out / "films").mkdir()
        films = {}
        for number, task in enumerate(TASKS):
            sentence = "恐れ入りますが、赤い立方体を取っていただけますか" + (HOSTILE if number == 0 else "")
            films[task] = {"instruction": sentence, "success": number < 2, "number": number}
            frames = []
            for i in range(6):
                frame = Image.new("RGB", (180, 180), (204, 198, 186))
                draw = ImageDraw.Draw(frame)
                draw.rectangle((120, 120, 150, 150), fill=(190, 40, 30))
                draw.line((30, 30, 36 + 16 * i, 36 + 16 * i), fill=(60, 60, 70), width=10)
                frames.append(frame)
            strip = Image.new("RGB", (180 * len(frames), 180))
            for i, frame in enumerate(frames):
                strip.paste(frame, (180 * i, 0))
            strip.save(out / "films" / f"{task}.png")
            frames[0].save(out / "films" / f"{task}.gif", save_all=True, append_images=frames[1:], duration=120, loop=0)
        write_json(out / "episodes.json", {"episodes": [], "films": films})

    metrics = {f"rollout.{task}.success_rate": _metric(v, "success rate", i, 20) for task, (v, i) in TASKS.items()}
    maker.make(
        "rollout",
        {"policy": "policy", "export": "export"},
        metrics
        | {
            "rollout.success_rate": _metric(0.733, "success rate", (0.61, 0.83), 60),
            "rollout.wording_gap": _metric(0.05, "success rate lost", (-0.02, 0.12), 60),
            "rollout.interventions_per_episode": _metric(0.4, "interventions/episode", None, 60),
        },
        settings={"tasks": list(TASKS)},
        write=write,
        seconds=66,
    )


def _milestones(maker: Maker) -> None:
    """Judged and signed by the stage itself."""
    folder = maker.store.root.parent / "programme"
    partners = tuple(Partner(name=name) for name in ("content", "research", "robots"))
    approvers = Approvers(of=("content", "research", "robots"), quorum=2)

    def milestone(number: int, title: str, tranche: int, *criteria: Criterion) -> Milestone:
        due = datetime.date(2027, 3, 31)
        return Milestone(
            id=f"M{number}", title=title, due=due, tranche_jpy=tranche, approvers=approvers, criteria=criteria
        )

    planned = (
        milestone(
            1,
            "日本語の文章を予測するモデルができる",
            1_000_000_000,
            Criterion(metric="corpus.documents_kept", at_least=1000),
            Criterion(metric="evaluation.bits-per-character.all", at_most=4.0),
        ),
        milestone(
            2,
            "腕が日本語の指示どおりに動く",
            12_345_600_000,
            Criterion(metric="rollout.reach.success_rate", at_least=0.8),
            Criterion(metric="rollout.pick.success_rate", at_least=0.6),
        ),
        milestone(
            3,
            "敬語・助詞・助数詞を正しく使う " + HOSTILE,
            10_000_000_000,
            Criterion(metric="evaluation.keigo.accuracy", at_least=0.9),
            Criterion(metric="evaluation.of-tomorrow.accuracy", at_least=0.9),
        ),
    )
    prepare(folder, planned, partners, demo_keys=True)
    settings = MilestonesSettings(milestones=planned, partners=partners, folder=str(folder))
    measured = list(maker.made.values())
    metrics: dict[str, Metric] = {}

    def write(out: Path) -> None:
        metrics.update(milestones.function(settings, measured, out=out, progress=Progress(quiet=True)).metrics)

    inputs = {f"measured.{name.split('.', 1)[-1]}": name for name in maker.made}
    maker.make("milestones", inputs, metrics, settings.model_dump(mode="json"), write=write, seconds=0.2)
