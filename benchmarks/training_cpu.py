"""Training speed on the CPU, against transformers and torchtitan: the same weights, batches, optimiser and schedule.

    python benchmarks/training_cpu.py                                  # everything; about an hour on two cores
    python benchmarks/training_cpu.py --presets nano --contestants kiban

First every contestant tries its variants and keeps the fastest whose loss is the same. Then they take turns, each turn
a process of its own, for `--rounds` rounds. Leaves a record in `benchmarks/results/`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import data  # noqa: E402
import peers  # noqa: E402
import record  # noqa: E402
import torch  # noqa: E402

from kiban.model import hf  # noqa: E402
from kiban.model.config import ModelConfig  # noqa: E402
from kiban.model.presets import preset  # noqa: E402
from kiban.model.transformer import Transformer  # noqa: E402
from kiban.tokenizer.packing import TokenStore  # noqa: E402
from kiban.training.batches import Batches  # noqa: E402
from kiban.training.flops import flops_per_token, matmul_rate  # noqa: E402
from kiban.training.optimiser import BETAS, EPS  # noqa: E402
from kiban.training.schedule import wsd  # noqa: E402
from kiban.training.settings import TrainingSettings  # noqa: E402

WARMUP = 2  # steps of a turn that do not count
TRIAL = 4  # steps at most that do, while a contestant tries its variants
BATCHES = {"nano": (8, 512), "tiny": (8, 256)}  # sequences x tokens
TARGETS = {"transformers": 2.0, "torchtitan": 1.2}  # ours over theirs
MFU_TARGETS = {"float32": 0.65, "bfloat16": 0.50}
SAME_LOSS = {"float32": 1e-3, "bfloat16": 1e-2}  # nats/token, at every step, from our loop in float32

# What each contestant may choose from. bfloat16: weights in float32 under autocast, or everything in bfloat16 (pure).
VARIANTS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "kiban": {"float32": [{}], "bfloat16": [{"dtype": "bfloat16"}]},
    "transformers": {
        "float32": [
            {"experts": experts, "attention": "sdpa", "compile": compiled}
            for experts, compiled in (("eager", False), ("grouped_mm", False), ("grouped_mm", True))
        ],
        "bfloat16": [
            {"kind": kind, "experts": experts, "attention": "sdpa", "compile": compiled}
            for kind in ("autocast", "pure")
            for experts, compiled in (("eager", False), ("grouped_mm", False), ("grouped_mm", True))
        ],
    },
    "torchtitan": {
        "float32": [
            {"experts": experts, "loss": loss, "compile": False}
            for experts in ("loop", "grouped_mm")
            for loss in ("whole", "chunked")
        ],
        "bfloat16": [
            {"kind": kind, "experts": experts, "loss": loss, "compile": False}
            for kind, experts in (("autocast", "stock"), ("pure", "stock"), ("pure", "loop"))
            for loss in ("whole", "chunked")
        ]
        + [{"kind": kind, "experts": "stock", "loss": "whole", "compile": True} for kind in ("autocast", "pure")],
    },
}


def main() -> None:
    args = arguments()
    figures: dict[str, Any] = {**record.circumstances(), "threads": args.threads, "settings": [], "versions": {}}
    torch.set_num_threads(args.threads)
    pythons = {name: Path(sys.executable) if name == "kiban" else peers.python_of(name) for name in args.contestants}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.presets:
            jobs = prepare(name, args, Path(folder) / name)
            reference = run("kiban", Path(sys.executable), jobs | {"variant": {}}, args.threads)
            if "error" in reference:
                raise SystemExit(f"Kiban's loop in float32, which all losses are held against: {reference['error']}")
            jobs["reference"] = reference["losses"]
            for dtype in args.dtypes:
                found = compare(name, dtype, jobs, pythons, args, figures["versions"])
                figures["settings"].append(found)
                path = record.write("training", figures, markdown(figures), args.results)  # what there is so far
    print(f"\n{path.read_text()}\n{path}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=list(BATCHES))
    parser.add_argument("--dtypes", nargs="+", default=list(MFU_TARGETS), choices=list(MFU_TARGETS))
    parser.add_argument("--contestants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help=f"that count, of each turn; {WARMUP} more come before")
    parser.add_argument("--batch", help="sequences x tokens, like 8x512; the default is the preset's")
    parser.add_argument("--tokens", type=Path, help="a folder of packed tokens; the default is a made-up language")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    return parser.parse_args()


def prepare(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The files that all contestants read, and the part of their job that is the same for all."""
    sequences, length = (int(n) for n in args.batch.split("x")) if args.batch else BATCHES[name]
    steps = WARMUP + args.steps
    if args.tokens:
        store = TokenStore.open(args.tokens)
    else:
        store = data.made_up(folder / "tokens", preset(name).vocab_size, max(2**18, steps * sequences * length * 2))
    config = preset(name, store.vocab_size)
    settings = TrainingSettings(
        preset=name,
        tokens=steps * sequences * length,
        sequence_length=length,
        batch_sequences=sequences,
        threads=args.threads,
        learning_rate=3e-4,  # gently, and rising throughout: so short a run would else magnify the last bit
        warmup_share=1.0,
        decay_share=0.0,
        bias_rate=0.0,  # the peers' routing bias does not move
        save_every_seconds=1e9,
    )
    assert settings.learning_rate is not None
    batches = Batches(store, settings.seed, sequences, length)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "batches.npy", np.stack([batches.tokens(step).numpy() for step in range(steps)]))
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(settings.seed))
    hf.save(model, folder / "weights")
    factors = [wsd(step, steps, settings.warmup_share, settings.decay_share) for step in range(steps)]
    return {
        "config": config.model_dump(),
        "settings": settings.model_dump(exclude_unset=True) | {"save_every_seconds": 1e9},
        "weights": str(folder / "weights"),
        "batches": str(folder / "batches.npy"),
        "tokens": str(store.folder),
        "batch": [sequences, length],
        "length": length,
        "lr": [settings.learning_rate * factor for factor in factors],
        "weight_decay": settings.weight_decay,
        "grad_clip": settings.grad_clip,
        "betas": BETAS,
        "eps": EPS,
        "threads": args.threads,
    }


def compare(
    name: str,
    dtype: str,
    shared: dict[str, Any],
    pythons: dict[str, Path],
    args: argparse.Namespace,
    versions: dict[str, str],
) -> dict[str, Any]:
    """One preset in one dtype."""
    sequences, length = shared["batch"]
    found: dict[str, Any] = {"preset": name, "dtype": dtype, "batch": f"{sequences}x{length}", "contestants": {}}

    def turn(contestant: str, variant: dict[str, Any], steps: int) -> dict[str, Any]:
        job = shared | {"dtype": dtype, "variant": variant, "lr": shared["lr"][: WARMUP + steps]}
        result = run(contestant, pythons[contestant], job, args.threads)
        if "error" in result:
            print(f"{name} {dtype} {contestant} {variant}: {result['error']}", flush=True)
            return result
        counted = result["seconds"][WARMUP:]
        result["tokens_per_s"] = sequences * length * len(counted) / sum(counted)
        gaps = (abs(a - b) for a, b in zip(result["losses"], shared["reference"], strict=False))
        result["loss_difference"] = max(gaps)
        result["same"] = result["loss_difference"] <= SAME_LOSS[dtype]
        loss = "" if result["same"] else f", but its loss differs by {result['loss_difference']:.1e}"
        print(f"{name} {dtype} {contestant} {variant}: {result['tokens_per_s']:.0f} tokens/s{loss}", flush=True)
        versions.update(result["versions"])
        return result

    for contestant in args.contestants:
        variants = VARIANTS[contestant][dtype]
        several = len(variants) > 1
        tried = [{"variant": v} | turn(contestant, v, min(args.steps, TRIAL)) for v in variants if several]
        fastest = max(tried, key=lambda t: (t.get("same", False), t.get("tokens_per_s", 0.0)), default={})
        chosen = fastest.get("variant", variants[0])
        found["contestants"][contestant] = {"variant": chosen, "tried": tried, "turns": []}

    found["matmul_rates"] = []
    for _ in range(args.rounds):
        found["matmul_rates"].append(matmul_rate(torch.device("cpu"), getattr(torch, dtype)))
        for contestant in args.contestants:
            entry = found["contestants"][contestant]
            entry["turns"].append(turn(contestant, entry["variant"], args.steps))
    summarise(found, flops_per_token(ModelConfig(**shared["config"]), length))
    return found


def run(contestant: str, python: Path, job: dict[str, Any], threads: int) -> dict[str, Any]:
    """One turn in a process of its own: its losses and seconds, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "job.json", Path(folder) / "out.json"
        path.write_text(json.dumps(job | {"out": str(out)}))
        paths = [str(ROOT / "src")] if contestant == "kiban" else []
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
        script = ROOT / "benchmarks" / f"run_{contestant}.py"
        done = subprocess.run([python, script, path], env=environment, capture_output=True, text=True)
        if done.returncode:
            return {"error": record.reason(done)}
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def summarise(found: dict[str, Any], flops: float) -> None:
    """Medians and spread; ratios of the turns in the same round."""
    ours = found["contestants"].get("kiban", {"turns": []})["turns"]
    for contestant, entry in found["contestants"].items():
        turns = [turn for turn in entry["turns"] if "error" not in turn]
        if not turns:
            continue
        entry["loss_difference"] = max(turn["loss_difference"] for turn in turns)
        entry["tokens_per_s"] = spread([turn["tokens_per_s"] for turn in turns])
        entry["mfu"] = spread(
            [
                turn["tokens_per_s"] * flops / rate
                for turn, rate in zip(entry["turns"], found["matmul_rates"], strict=True)
                if "error" not in turn
            ]
        )
        pairs = [
            (our, their)
            for our, their in zip(ours, entry["turns"], strict=False)
            if "error" not in our and "error" not in their
        ]
        if contestant != "kiban" and pairs:
            entry["ratio"] = spread([our["tokens_per_s"] / their["tokens_per_s"] for our, their in pairs])


def spread(values: list[float]) -> dict[str, float]:
    return {"median": record.median(values), "min": min(values), "max": max(values)}


def markdown(figures: dict[str, Any]) -> str:
    lines = record.head("Training on the CPU, side by side", figures)
    lines += [f"- threads: {figures['threads']}"]
    lines += [f"- {name}: {version}" for name, version in {"torch": "", **figures["versions"]}.items()]
    lines += [
        "",
        "Medians over the rounds, and the least to the most. MFU: model operations (`training/flops.py`) over the "
        "machine's matrix product in the same dtype, measured before each round. Loss: the largest difference at any "
        "step from our loop in float32.",
    ]
    lines += best_dtypes(figures["settings"])
    for found in figures["settings"]:
        rate = spread(found["matmul_rates"])
        lines += [f"## {found['preset']}, {found['dtype']}, batch {found['batch']}", ""]
        lines += [f"Matrix product: {span(rate, 1e-9)} GFLOP/s, {len(found['matmul_rates'])} rounds.", ""]
        rows = [row(name, entry, found["dtype"]) for name, entry in found["contestants"].items()]
        lines += record.table(["contestant", "tokens/s", "MFU", "Kiban's speed over it", "asked", "loss"], rows)
        lines += losses(found)
        for name, entry in found["contestants"].items():
            error = next((turn["error"] for turn in entry["turns"] if "error" in turn), None)
            lines += [f"- {name} could not run: `{error}`"] if error else []
            tried = [f"`{trial['variant']}` {outcome(trial)}" for trial in entry["tried"]]
            lines += [f"- {name} tried, in tokens/s: {'; '.join(tried)}; took `{entry['variant']}`"] if tried else []
    return "\n".join(lines) + "\n"


def best_dtypes(settings: list[dict[str, Any]]) -> list[str]:
    """Each contestant in the dtype it is fastest in: medians, and their ratio."""
    lines = ["", "## Each in its best dtype", ""]  # a ratio of medians: the dtypes did not take turns
    rows = []
    for name in dict.fromkeys(found["preset"] for found in settings):
        best: dict[str, tuple[float, str]] = {}
        for found in (found for found in settings if found["preset"] == name):
            for contestant, entry in found["contestants"].items():
                if "tokens_per_s" in entry:
                    here = (entry["tokens_per_s"]["median"], found["dtype"])
                    best[contestant] = max(best.get(contestant, here), here)
        for contestant, (speed, dtype) in best.items():
            ratio = f"{best['kiban'][0] / speed:.2f}" if contestant != "kiban" and "kiban" in best else ""
            rows.append([name, contestant, dtype, f"{speed:.0f}", ratio])
    return lines + record.table(["preset", "contestant", "dtype", "tokens/s", "Kiban's speed over it"], rows)


def row(name: str, entry: dict[str, Any], dtype: str) -> list[str]:
    if "tokens_per_s" not in entry:
        return [name, "failed", "", "", "", ""]
    speed, use = span(entry["tokens_per_s"], 1), span(entry["mfu"], 100) + " %"
    same = entry["loss_difference"] <= SAME_LOSS[dtype]
    loss = f"{'same' if same else 'NOT the same'}: differs by {entry['loss_difference']:.1e} at most"
    if name == "kiban":
        met = verdict(entry["mfu"]["median"] >= MFU_TARGETS[dtype])
        return [name, speed, use, "", f"MFU {MFU_TARGETS[dtype]:.0%}: {met}", loss]
    if "ratio" not in entry:
        return [name, speed, use, "", "", loss]
    met = verdict(entry["ratio"]["median"] >= TARGETS[name])
    return [name, speed, use, span(entry["ratio"], 1, 2), f"{TARGETS[name]}x: {met}", loss]


def outcome(trial: dict[str, Any]) -> str:
    if "error" in trial:
        return str(trial["error"])
    other = "" if trial["same"] else f" at another loss (by {trial['loss_difference']:.1e})"
    return f"{trial['tokens_per_s']:.0f}{other}"


def verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def span(figure: dict[str, float], factor: float, digits: int = 0) -> str:
    median, least, most = (f"{figure[key] * factor:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def losses(found: dict[str, Any]) -> list[str]:
    """The loss of every step, side by side: the first round's."""
    first = {name: e["turns"][0]["losses"] for name, e in found["contestants"].items() if "losses" in e["turns"][0]}
    if not first:
        return []
    steps = len(next(iter(first.values())))
    rows = [[name, *(f"{loss:.4f}" for loss in values)] for name, values in first.items()]
    return record.table(["loss at step", *(str(step + 1) for step in range(steps))], rows)


if __name__ == "__main__":
    main()
