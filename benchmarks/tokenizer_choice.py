"""Which vocabulary, pieces and second stage: bits per character of `nano` on text that nothing was trained on.

    python benchmarks/tokenizer_choice.py            # goes on where it was; one committed record a run

Screening: every vocabulary with every share of the second stage, one seed, at equal compute (FLOP of `nano` with 8,192
entries and words alone over 2,500 steps: 6 x active parameters x tokens). Finalists: the best three, at equal
wall-clock (SECONDS, by their own speed over 20 steps) with three seeds. At most 12 + 9 = 21 runs of about five minutes.
Of the held-back texts every other one is for screening, and the rest for the finalists: nothing is reported on what it
was chosen on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import record
import tokenizer_text

ROOT = Path(__file__).resolve().parents[1]
VOCABULARIES, SHARES = (4096, 8192, 16384), (0.0, 0.15, 0.3, 0.6)
STEPS, SECONDS = 2500, 290
KIBAN = Path(sys.executable).with_name("kiban")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("KIBAN_DATA", "")))
    parser.add_argument("--work", type=Path, default=ROOT / ".benchmarks" / "tokenizer")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "results" / "tokenizer_choice")
    parser.add_argument("--megabytes", type=float, default=64.0, help="of training text")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the reference")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a run at equal wall-clock")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    screened = [run(given, v, share, "compute", 0) for v in VOCABULARIES for share in SHARES]
    best = sorted(screened, key=lambda r: r["bits_per_character"]["mean"])[:3]
    finals = [run(given, r["vocabulary"], r["second_stage"], "wall-clock", seed) for r in best for seed in (0, 1, 2)]
    domains = list(screened[0]["bits_per_character"])
    rows = [
        [r["budget"], str(r["vocabulary"]), str(r["second_stage"]), str(r["seed"]), str(r["steps"])]
        + [f"{r['bits_per_character'][d]:.4f}" for d in domains]
        for r in screened + finals
    ]
    columns = ["at equal", "vocabulary", "second stage", "seed", "steps", *domains]
    lines = ["# Tokenizers by bits per character of `nano`", "", *record.table(columns, rows)]
    (given.to / "README.md").write_text("\n".join(lines))
    print(given.to / "README.md")


def run(given: argparse.Namespace, vocabulary: int, share: float, budget: str, seed: int) -> dict[str, Any]:
    """One run, or its record if it is there."""
    kept = given.to / f"{budget}_{vocabulary}_{share}_{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    from kiban.evaluation.scoring import Scorer
    from kiban.model.presets import preset

    packed = _packed(given, vocabulary, share)
    config = preset("nano", vocabulary)
    if budget == "compute":
        flop = preset("nano", 8192).parameters().active * given.steps
        steps = round(flop / config.parameters().active)
    else:
        steps = _steps_in(given, packed, f"{vocabulary}_{share}_{seed}", seed)
    folder = given.work / f"{budget}_{vocabulary}_{share}_{seed}"
    begin = time.perf_counter()
    _train(given, packed, folder / "run", steps, seed)
    seconds = time.perf_counter() - begin
    if not (folder / "model" / "config.json").is_file():
        subprocess.run([KIBAN, "export", folder / "run", "--to", folder / "model"], check=True)
    scorer = Scorer.load(folder / "model")
    bits = {}
    half = slice(0, None, 2) if budget == "compute" else slice(1, None, 2)
    for domain, texts in _held(given).items():
        scores = scorer.texts(texts[half])
        bits[domain] = sum(s.bits_per_character * s.characters for s in scores) / sum(s.characters for s in scores)
    bits["mean"] = sum(bits.values()) / len(bits)
    found = record.circumstances() | {
        "vocabulary": vocabulary,
        "second_stage": share,
        "budget": budget,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "active_parameters": config.parameters().active,
        "bits_per_character": bits,
    }
    temporary = kept.with_suffix(".part")
    temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    temporary.rename(kept)
    print(kept.name, f"{bits['mean']:.4f}", flush=True)
    return found


def _steps_in(given: argparse.Namespace, packed: Path, name: str, seed: int) -> int:
    """How many steps fit the seconds: measured once, so that an interrupted run goes on with the same number."""
    kept = given.work / "trial" / f"{name}.steps"
    if kept.is_file():
        return int(kept.read_text())
    seconds = []
    for number in (4, 24):
        trial = given.work / "trial" / f"{name}_{number}"
        shutil.rmtree(trial, ignore_errors=True)
        begin = time.perf_counter()
        _train(given, packed, trial, number, seed)
        seconds.append(time.perf_counter() - begin)
    kept.write_text(str(max(1, round(given.seconds / max((seconds[1] - seconds[0]) / 20, 1e-3)))))
    return int(kept.read_text())


def _train(given: argparse.Namespace, packed: Path, to: Path, steps: int, seed: int) -> None:
    if (to / "model.safetensors").is_file():
        return
    options = ["--preset", "nano", "--steps", str(steps), "--seed", str(seed), "--threads", str(given.threads)]
    subprocess.run([KIBAN, "train", "--data", packed, "--to", to, *options], check=True, stdout=subprocess.DEVNULL)


def _packed(given: argparse.Namespace, vocabulary: int, share: float) -> Path:
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TOKENS, pack

    folder = given.work / f"packed_{vocabulary}_{share}_{given.megabytes}"
    if (folder / TOKENS).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = _training(given)
    words = Tokenizer.train(texts, vocabulary, second_stage=share)
    words.save(folder)
    for _ in pack(words, ((str(i), "text", text) for i, text in enumerate(texts)), folder):
        pass
    return folder


def _training(given: argparse.Namespace) -> list[str]:
    import numpy as np

    table = tokenizer_text.documents(given.data, given.work)
    texts, size = [], 0
    order = np.random.default_rng(0).permutation(table.num_rows)
    for text in tokenizer_text.training(table.take(order), set()):
        size += len(text.encode())
        if size > given.megabytes * 1e6:
            break
        texts.append(text)
    return texts


def _held(given: argparse.Namespace) -> dict[str, list[str]]:
    return tokenizer_text.held_back(tokenizer_text.documents(given.data, given.work), megabytes=0.2)


if __name__ == "__main__":
    main()
