"""Questions an hour with the preset `tiny`, beside lm-evaluation-harness's hf backend on the same model and items.

    python benchmarks/evaluation.py                     # both, in turns; at least five rounds for a record
    python benchmarks/evaluation.py --contestants kiban # no peer, nothing to install

Needs JCommonsenseQA and JMMLU below $KIBAN_DATA/eval. The model is untrained: what it answers costs what an answer
costs. Each round asks the same questions (all choices of each, log-likelihoods of all) of both, in processes of their
own, and compares what they answered. Loading the model is not counted for either; building requests is, for both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from peers import python_of

from kiban.evaluation import suite
from kiban.model import hf
from kiban.model.presets import preset
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer

SUITES = ("jcommonsenseqa", "jmmlu")
TARGET = 20_000  # questions an hour, both suites together


def make_model(folder: Path, texts: list[str]) -> Path:
    """`tiny` with its own vocabulary, or as much of one as these texts support."""
    words = Tokenizer.train(texts, preset("tiny").vocab_size, may_be_smaller=True)
    model = Transformer(preset("tiny", words.vocab_size))
    model.init_weights(torch.Generator().manual_seed(0))
    hf.save(model, folder)
    words.save(folder)
    return folder


def questions(data: Path, limit: int) -> dict[str, list[suite.Item]]:
    """JCommonsenseQA as the harness words it, JMMLU as we do."""
    found = {}
    for name, variant in zip(SUITES, ("harness", "default"), strict=True):
        chosen = suite.load(name)
        path = chosen.path(data)
        assert path is not None
        found[name] = suite.sample(suite.items(chosen, path, variant), limit)
    return found


def kiban(model: Path, asked: dict[str, list[suite.Item]], cores: int, folder: Path) -> dict[str, Any]:
    """As `kiban eval run` does, in one process of as many threads as there are cores."""
    job = {
        "model": str(model),
        "cores": cores,
        "groups": {name: [[(i.asked, c) for c in i.choices] for i in items] for name, items in asked.items()},
    }
    (folder / "kiban.json").write_text(json.dumps(job))
    command = [sys.executable, __file__, "--worker", str(folder / "kiban.json"), str(folder / "kiban-answers.json")]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(command, check=True, env=environment)
    return dict(json.loads((folder / "kiban-answers.json").read_text()))


def nobody(n: int) -> None:
    pass


def worker(asked: Path, answered: Path) -> None:
    from kiban.evaluation.answers import Answers
    from kiban.evaluation.models import LocalModel, locate

    job = json.loads(asked.read_text())
    torch.set_num_threads(job["cores"])
    model = LocalModel(locate(Path(job["model"])))
    Answers(model, None).log_likelihoods([[("あ", "い")]], nobody)  # loads it
    answers = {}
    for name, groups in job["groups"].items():
        start = time.perf_counter()
        found = Answers(model, None).log_likelihoods(groups, nobody)
        seconds = time.perf_counter() - start
        answers[name] = {"seconds": seconds, "items": [[nats for nats, _ in group] for group in found]}
    answered.write_text(json.dumps(answers))


def lm_eval(
    model: Path, asked: dict[str, list[suite.Item]], cores: int, batch_size: int, folder: Path
) -> dict[str, Any]:
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    tasks = [
        {
            "name": name,
            "config": config,
            "docs": [{"text": i.asked, "choices": list(i.choices), "answer": i.answer} for i in items],
        }
        for name, items in asked.items()
    ]
    job = {"model": str(model), "threads": cores, "batch_size": batch_size, "dtype": "float32", "tasks": tasks}
    (folder / "asked.json").write_text(json.dumps(job))
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    script = Path(__file__).with_name("run_lm_eval.py")
    command = [str(python_of("lm-eval")), str(script), str(folder / "asked.json"), str(folder / "answered.json")]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    found = json.loads((folder / "answered.json").read_text())
    return {
        name: {
            "seconds": found[name]["seconds"],
            "items": [[pair[0] for pair in answered] for answered in found[name]["items"]],
        }
        for name in asked
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contestants", nargs="+", default=["kiban", "lm-eval"], choices=["kiban", "lm-eval"])
    parser.add_argument("--questions", type=int, default=256, help="of each suite in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="that lm-eval tries")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    parser.add_argument("--worker", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(*given.worker)
        return
    location = os.environ.get("KIBAN_DATA")
    if not location:
        sys.exit("KIBAN_DATA is not set: JCommonsenseQA and JMMLU lie below it")
    asked = questions(Path(location) / "eval", given.questions)
    everything = questions(Path(location) / "eval", 10**6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [item.asked + " ".join(item.choices) for items in everything.values() for item in items]
        model = make_model(folder / "model", texts)
        best = given.batch_sizes[0]
        if "lm-eval" in given.contestants and len(given.batch_sizes) > 1:
            few = {name: items[:48] for name, items in asked.items()}
            tried = {
                size: sum(a["seconds"] for a in lm_eval(model, few, given.cores, size, folder).values())
                for size in given.batch_sizes
            }
            best = min(tried, key=lambda size: tried[size])
            print(f"lm-eval: seconds for {2 * 48} questions by batch size: {tried}", flush=True)
        seconds: dict[str, dict[str, list[float]]] = {c: {s: [] for s in SUITES} for c in given.contestants}
        apart: dict[str, float] = dict.fromkeys(SUITES, 0.0)
        for number in range(given.rounds):
            found = {}
            for contestant in given.contestants:
                if contestant == "kiban":
                    found[contestant] = kiban(model, asked, given.cores, folder)
                else:
                    found[contestant] = lm_eval(model, asked, given.cores, best, folder)
                for s in SUITES:
                    seconds[contestant][s].append(found[contestant][s]["seconds"])
            print(
                f"round {number + 1}: {[(c, s, round(v[s][-1], 2)) for c, v in seconds.items() for s in SUITES]}",
                flush=True,
            )
            if len(found) == 2:
                for s in SUITES:
                    pairs = zip(found["kiban"][s]["items"], found["lm-eval"][s]["items"], strict=True)
                    apart[s] = max(apart[s], *(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)))
    figures = record.circumstances() | {
        "cores": given.cores,
        "questions": {s: len(items) for s, items in asked.items()},
        "batch_size": best,
        "seconds": seconds,
        "largest_difference_nats": apart if len(given.contestants) == 2 else None,
    }
    print(record.write("evaluation", figures, page(figures), given.out))


def page(figures: dict[str, Any]) -> str:
    lines = record.head("Evaluation: questions an hour with `tiny`", figures)
    rows = []
    totals: dict[str, list[float]] = {}
    for contestant, by_suite in figures["seconds"].items():
        for name, values in by_suite.items():
            n = figures["questions"][name]
            rate = sorted(3600 * n / value for value in values)
            rows.append([contestant, name, str(n), f"{record.median(rate):,.0f}", f"{rate[0]:,.0f} to {rate[-1]:,.0f}"])
        both = zip(*by_suite.values(), strict=True)
        totals[contestant] = [3600 * sum(figures["questions"].values()) / sum(pair) for pair in both]
        rate = sorted(totals[contestant])
        rows.append([contestant, "both", "", f"{record.median(rate):,.0f}", f"{rate[0]:,.0f} to {rate[-1]:,.0f}"])
    lines += record.table(["contestant", "suite", "questions", "an hour (median)", "range"], rows)
    if len(totals) == 2:
        ratios = [a / b for a, b in zip(totals["kiban"], totals["lm-eval"], strict=True)]
        lines += [
            f"Kiban answers {record.median(ratios):.1f} times as many ({min(ratios):.1f} to {max(ratios):.1f}), "
            f"lm-eval at batch size {figures['batch_size']}, its best of those tried; {figures['cores']} cores each.",
            f"Log-likelihoods differ by at most {max(figures['largest_difference_nats'].values()):.1e} nats.",
            "",
        ]
    lines += [f"The target is {TARGET:,} questions an hour on two cores, and three times lm-eval.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
