"""The learning rate's optimum at three widths of the dial, in units of what the rule gives (`training/settings.py`).

    python benchmarks/learning_rate.py            # an hour and a half on two cores; goes on where it was stopped

All widths read the same batches of the text of `recipes/aozora`, 400,000 tokens of it. Each run leaves a record in
`results/learning-rate/`; the page there shows that the optimum stays put.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import experiments  # noqa: E402
import record  # noqa: E402
import torch  # noqa: E402
from bits_per_character import bits_per_character  # noqa: E402

from kiban.artifacts.progress import Progress  # noqa: E402
from kiban.model.presets import of_width  # noqa: E402
from kiban.tokenizer.packing import TokenStore  # noqa: E402
from kiban.training.loop import train  # noqa: E402
from kiban.training.settings import TrainingSettings  # noqa: E402

RESULTS = record.RESULTS / "learning-rate"
WIDTHS = (256, 384, 512)
FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
STEPS, SEQUENCES, LENGTH = 200, 4, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--factors", nargs="+", type=float, default=list(FACTORS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    text = experiments.text()
    for width in args.widths:
        for factor in args.factors:
            for seed in args.seeds:
                name = f"{width}-{factor}-{seed}"
                experiments.recorded(RESULTS, name, lambda: run(width, factor, seed, text))  # noqa: B023
    (RESULTS / "README.md").write_text(page())
    print(page())


def run(width: int, factor: float, seed: int, text: experiments.Text) -> dict[str, Any]:
    """One training run, in this process; interrupted, it goes on from its checkpoint."""
    store = TokenStore.open(text.tokens)
    config = of_width(width, store.vocab_size)
    settings = TrainingSettings(
        tokens=STEPS * SEQUENCES * LENGTH,
        sequence_length=LENGTH,
        batch_sequences=SEQUENCES,
        seed=seed,
        dtype="bfloat16",
    )
    rate = settings.resolved(config).learning_rate
    assert rate
    settings = settings.model_copy(update={"learning_rate": rate * factor})
    folder = experiments.SCRATCH / f"rate-{width}-{factor}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    made = train(config, store, settings, folder / "log.jsonl", folder / "checkpoints", Progress(quiet=True))
    model = made.model.eval()
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "width": width,
        "factor": factor,
        "seed": seed,
        "learning_rate": rate * factor,
        "tokens": made.tokens,
        "seconds": round(made.seconds, 1),
        "bits_per_character": bits_per_character(lambda x_BL: model.logits(model(x_BL)), text.windows["tune"]),
        "loss": made.loss,
        "curve": experiments.curve(losses, 50),
    }


def page() -> str:
    """The table of all records: bits per character by width and factor, and where a parabola through the best three
    has its least."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    widths = sorted({run["width"] for run in runs})
    factors = sorted({run["factor"] for run in runs})
    mean = {
        (width, factor): sum(values) / len(values)
        for width in widths
        for factor in factors
        if (values := [r["bits_per_character"] for r in runs if (r["width"], r["factor"]) == (width, factor)])
    }
    rows = []
    for width in widths:
        row = {factor: mean[width, factor] for factor in factors if (width, factor) in mean}
        rate = next(run["learning_rate"] / run["factor"] for run in runs if run["width"] == width)
        cells = [f"{row[factor]:.4f}" if factor in row else "" for factor in factors]
        rows.append([str(width), f"{rate:.2e}", *cells, f"{optimum(row):.2f}"])
    found = runs[-1]
    lines = record.head("The learning rate's optimum at three widths", found)
    lines += [
        f"Bits per character of held-back works after {found['tokens']:,} tokens, by what the rule's rate is "
        "multiplied with; then the optimum, by a parabola through the best and its neighbours over the logarithm. "
        f"{len(runs)} runs, each with a record and its curve in this folder.",
        "",
    ]
    columns = ["width", "rate by the rule", *(f"x {factor:g}" for factor in factors), "optimum x"]
    return "\n".join([*lines, *record.table(columns, rows)]).rstrip() + "\n"


def optimum(row: dict[float, float]) -> float:
    """Over log2 of the factor; the best factor itself where it stands at the edge."""
    factors = sorted(row)
    best = min(range(len(factors)), key=lambda i: row[factors[i]])
    if best in (0, len(factors) - 1):
        return factors[best]
    logs = torch.tensor([factors[i] for i in (best - 1, best, best + 1)], dtype=torch.float64).log2()
    values = torch.tensor([row[factors[i]] for i in (best - 1, best, best + 1)], dtype=torch.float64)
    c, b, a = torch.linalg.solve(torch.stack([torch.ones(3, dtype=torch.float64), logs, logs**2], 1), values).tolist()
    return float(2 ** (-b / (2 * a)))


if __name__ == "__main__":
    main()
