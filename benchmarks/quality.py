"""Bits per character at equal wall-clock: Kiban's `nano`, a dense GPT by nanochat's recipe, and transformers' model of
the shape of `nano`, trained with AdamW. The same text, tokenizer and batches, two CPU cores.

    python benchmarks/quality.py rates --nanochat CHECKOUT    # quarter of an hour; nothing else may run
    python benchmarks/quality.py sweep --nanochat CHECKOUT    # five minutes a run: each at several learning rates
    python benchmarks/quality.py final --nanochat CHECKOUT    # half an hour a run: three seeds at each one's best
    python benchmarks/quality.py table

A run has as many steps as its contestant does in that time by the rate that was measured alone, so what a run gives
does not depend on what else the machine does meanwhile. Compiling is not counted. Each run leaves a record in
`results/quality/`, and is not run again while that is there. The best rate is chosen on `tune`, reported is `final`
(see `experiments.py`).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import experiments  # noqa: E402
import peers  # noqa: E402
import record  # noqa: E402
import torch  # noqa: E402
from training_cpu import run  # noqa: E402

from kiban.model import hf  # noqa: E402
from kiban.model.presets import preset  # noqa: E402
from kiban.model.transformer import Transformer  # noqa: E402
from kiban.tokenizer.packing import TokenStore  # noqa: E402
from kiban.training.batches import Batches  # noqa: E402
from kiban.training.optimiser import BETAS, EPS  # noqa: E402
from kiban.training.schedule import wsd  # noqa: E402
from kiban.training.settings import TrainingSettings  # noqa: E402

RESULTS = record.RESULTS / "quality"
SEQUENCES, LENGTH = 8, 512
SECONDS = {"sweep": 300, "final": 1800}
FACTORS = {"kiban": (0.5, 1.0, 2.0), "nanochat": (0.5, 1.0, 2.0, 4.0), "transformers": (0.25, 0.5, 1.0, 2.0)}
SEEDS = (1, 2, 3)
TITLES = {
    "kiban": "Kiban, `nano`",
    "nanochat": "nanochat's recipe, depth 4 (dense)",
    "transformers": "transformers' DeepSeek-V3, the shape of `nano`, AdamW",
}

# Every variant tries the rates; the fastest is taken. Of transformers' those whose loss is ours (see training_cpu.py).
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "kiban": [{"dtype": "bfloat16"}],
    "nanochat": [
        {"dtype": dtype, "compile": compiled} for dtype in ("bfloat16", "float32") for compiled in (True, False)
    ],
    "transformers": [
        {"kind": "autocast", "experts": "grouped_mm", "attention": "sdpa", "compile": compiled}
        for compiled in (True, False)
    ],
}
WARMUP = 5  # steps that compile and do not count for a rate
ROUNDS = 5
ADAMW_RATE = 2.2e-4 * 7168 / 256  # DeepSeek-V3's, by its width (see training/settings.py)
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t by degrees of freedom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["rates", "sweep", "final", "table"])
    parser.add_argument("--nanochat", type=Path, help="a checkout of github.com/karpathy/nanochat")
    parser.add_argument("--contestants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parser.parse_args()
    if args.what == "table":
        print(write_table())
        return
    if args.nanochat is None and "nanochat" in args.contestants:
        parser.error("--nanochat CHECKOUT is needed, or --contestants without it")
    torch.set_num_threads(2)
    text = experiments.text()
    rates = {name: rate_of(name, text, args.nanochat) for name in args.contestants}
    for name in args.contestants if args.what != "rates" else []:
        variant, speed = rates[name]
        steps = round(SECONDS[args.what] * speed / (SEQUENCES * LENGTH))
        if args.what == "sweep":
            for factor in FACTORS[name]:
                experiments.recorded(
                    RESULTS,
                    f"sweep-{name}-{factor}",
                    lambda: trained(name, variant, steps, factor, 0, "tune", text, args.nanochat),  # noqa: B023
                )
            continue
        factor = best_factor(name)
        for seed in SEEDS:
            experiments.recorded(
                RESULTS,
                f"final-{name}-{seed}",
                lambda: trained(name, variant, steps, factor, seed, "final", text, args.nanochat),  # noqa: B023
            )


def rate_of(name: str, text: experiments.Text, nanochat: Path | None) -> tuple[dict[str, Any], float]:
    """The fastest variant and its tokens/s: the median of rounds."""

    def measured() -> dict[str, Any]:
        speeds: list[list[float]] = [[] for _ in VARIANTS[name]]
        for _ in range(ROUNDS):
            for variant, found in zip(VARIANTS[name], speeds, strict=True):
                seconds = turn(name, variant, WARMUP + 15, 1.0, 0, text, {}, nanochat)["seconds"][WARMUP:]
                found.append(SEQUENCES * LENGTH * len(seconds) / sum(seconds))
        best = max(range(len(speeds)), key=lambda i: record.median(speeds[i]))
        return {"variants": VARIANTS[name], "tokens_per_s": speeds, "best": best}

    found = experiments.recorded(RESULTS, f"rate-{name}", measured)
    return found["variants"][found["best"]], record.median(found["tokens_per_s"][found["best"]])


def trained(
    name: str,
    variant: dict[str, Any],
    steps: int,
    factor: float,
    seed: int,
    part: str,
    text: experiments.Text,
    nanochat: Path | None,
) -> dict[str, Any]:
    result = turn(name, variant, steps, factor, seed, text, {part: str(text.windows[part])}, nanochat)
    return {
        "contestant": name,
        "variant": {key: value for key, value in variant.items() if key != "checkout"},
        "factor": factor,
        "seed": seed,
        "steps": steps,
        "tokens": steps * SEQUENCES * LENGTH,
        "part": part,
        "bits_per_character": result["bits_per_character"][part],
        "curve": experiments.curve(result["losses"]),
    }


def turn(
    name: str,
    variant: dict[str, Any],
    steps: int,
    factor: float,
    seed: int,
    text: experiments.Text,
    windows: dict[str, str],
    nanochat: Path | None,
) -> dict[str, Any]:
    """One process that trains.

    Raises:
        SystemExit: if it fails.
    """
    store = TokenStore.open(text.tokens)
    config = preset("nano", store.vocab_size)
    settings = TrainingSettings(
        tokens=steps * SEQUENCES * LENGTH, sequence_length=LENGTH, batch_sequences=SEQUENCES, seed=seed
    )
    resolved = settings.resolved(config)
    assert resolved.learning_rate
    folder = experiments.SCRATCH / f"{name}-{steps}-{factor}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if name != "kiban":
        batches = Batches(store, seed, SEQUENCES, LENGTH)
        if not (folder / "batches.npy").is_file():
            rows = np.stack([batches.tokens(step).numpy().astype(np.int32) for step in range(steps)])
            np.save(folder / "batches.npy", rows)
        if not (folder / "weights").is_dir():
            hf.save(Transformer(config), folder / "weights")  # for its config.json
    peak = (ADAMW_RATE if name == "transformers" else resolved.learning_rate) * factor
    job = {
        "config": config.model_dump(),
        "settings": settings.model_dump(exclude_unset=True) | {"learning_rate": peak},
        "vocabulary": store.vocab_size,
        "length": LENGTH,
        "tokens": str(text.tokens),
        "windows": windows,
        "batches": str(folder / "batches.npy"),
        "weights": str(folder / "weights"),
        "own_start": True,
        "seed": seed,
        "factor": factor,
        "lr": [peak * wsd(step, steps, settings.warmup_share, settings.decay_share) for step in range(steps)],
        "weight_decay": 0.1,
        "grad_clip": 1.0,
        "betas": BETAS,
        "eps": EPS,
        "dtype": "bfloat16",
        "threads": 2,
        "variant": variant | ({"checkout": str(nanochat)} if name == "nanochat" else {}),
    }
    python = Path(sys.executable) if name == "kiban" else peers.python_of(name)
    result = run(name, python, job, 2)
    if "error" in result:
        raise SystemExit(f"{name}: {result['error']}")
    return result


def best_factor(name: str) -> float:
    """Of the sweep, which must have been run."""
    paths = [RESULTS / f"sweep-{name}-{factor}.json" for factor in FACTORS[name]]
    if not all(path.is_file() for path in paths):
        raise SystemExit(f"{name}: its sweep is not complete; python benchmarks/quality.py sweep")
    found = [json.loads(path.read_text()) for path in paths]
    return float(min(found, key=lambda run: run["bits_per_character"])["factor"])


def write_table() -> str:
    """Writes results/quality/README.md from the records there; gives its text."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    rates = {path.stem.removeprefix("rate-"): json.loads(path.read_text()) for path in RESULTS.glob("rate-*.json")}
    lines = ["# Bits per character at equal wall-clock", ""]
    lines += ["Made by `python benchmarks/quality.py`; each run's record, with its curve, lies beside this page.", ""]
    rows = []
    for name, found in rates.items():
        chosen = found["tokens_per_s"][found["best"]]
        variant = {k: v for k, v in found["variants"][found["best"]].items() if k != "attention"}
        low, middle, high = min(chosen), record.median(chosen), max(chosen)
        rows.append([TITLES[name], f"{middle:.0f} ({low:.0f} to {high:.0f})", f"`{variant}`", found["hardware"]])
    lines += ["## Tokens/s alone on the machine", ""]
    lines += record.table(["contestant", "median of rounds", "fastest variant", "hardware"], rows)
    for part, title in (("tune", "Sweep: five minutes a run, one seed"), ("final", "Half an hour a run")):
        found = [run for run in runs if run.get("part") == part]
        if not found:
            continue
        lines += [f"## {title}", ""]
        columns = ["contestant", "learning rates x", "seed", "steps", "tokens", "bits/character", "commit"]
        lines += record.table(
            columns,
            [
                [TITLES[run["contestant"]], str(run["factor"]), str(run["seed"]), f"{run['steps']:,}"]
                + [f"{run['tokens']:,}", f"{run['bits_per_character']:.4f}", run["commit"]]
                for run in sorted(found, key=lambda run: (run["contestant"], run["factor"], run["seed"]))
            ],
        )
    lines += summary([run for run in runs if run.get("part") == "final"])
    text = "\n".join(lines).rstrip() + "\n"
    (RESULTS / "README.md").write_text(text)
    return text


def summary(finals: list[dict[str, Any]]) -> list[str]:
    """Mean over seeds and its 95 % interval (Student's t), and the loss on the way."""
    rows, ways = [], []
    for name, title in TITLES.items():
        runs = [run for run in finals if run["contestant"] == name]
        if len(runs) != len(SEEDS):
            continue
        values = [run["bits_per_character"] for run in runs]
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        half = T_95[len(values) - 1] * deviation / len(values) ** 0.5
        rows.append([title, f"{mean:.4f}", f"{mean - half:.4f} to {mean + half:.4f}", f"{runs[0]['tokens']:,}"])
        curves = [run["curve"] for run in runs]
        places = [round(share * (len(curves[0]) - 1)) for share in (0.02, 0.1, 0.25, 0.5, 0.75, 1.0)]
        ways.append([title, *(f"{sum(c[i][1] for c in curves) / len(curves):.3f}" for i in places)])
    if not rows:
        return []
    head = ["contestant", "bits/character", "95 % interval over seeds", "tokens read"]
    lines = ["## Means", "", *record.table(head, rows)]
    lines += ["Training loss (nats/token) after a share of the half hour, mean over the seeds:", ""]
    return lines + record.table(["contestant", "2 %", "10 %", "25 %", "50 %", "75 %", "100 %"], ways)


if __name__ == "__main__":
    main()
