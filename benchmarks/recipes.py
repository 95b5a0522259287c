"""Is a filtered corpus better? `nano` on the corpus of each recipe and on unfiltered text, for the same tokens.

    python benchmarks/recipes.py --stays          # only what stays of each source under each recipe: some minutes
    python benchmarks/recipes.py                  # estimated: two hours on two cores; goes on where it was stopped

The text is that of `recipes/open-text`. What is held back is chosen once, on unfiltered text, and kept out of every
corpus with all that is a copy of it; one tokenizer, learnt from unfiltered text, serves all. Screening: every recipe,
one seed, on one half of what is held back. Finalists: `kiban`, unfiltered text and the best two others, three seeds, on
the other half, which nothing was chosen on. Each run leaves a record in `results/recipes/`.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import record
import tomli_w

ROOT = Path(__file__).resolve().parents[1]
RESULTS = record.RESULTS / "recipes"
UNFILTERED = "unfiltered"
RECIPES = (UNFILTERED, "kiban", "swallow-v1", "llm-jp-v1", "llm-jp-v1-strict", "fineweb2-jpn", "hojichar", "uzushio")
SUITES = ("jcommonsenseqa", "jnli", "jcommonsensemorality", "copa-ja", "keigo", "bunka", "senmon")
VOCABULARY, STEPS, ITEMS = 8192, 1500, 400
MOST_CHARACTERS = 4000  # of one held-back document
KIBAN = Path(sys.executable).with_name("kiban")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stays", action="store_true", help="count what stays, and train nothing")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--sources", nargs="*", help="of recipes/open-text; all without it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=3, help="of the finalists")
    parser.add_argument("--items", type=int, default=ITEMS, help="of each evaluation set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / ".benchmarks" / "recipes")
    parser.add_argument("--to", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    stays = {name: _stays(given, name) for name in given.recipes}
    (given.to / "stays.md").write_text(_stays_page(stays))
    print(given.to / "stays.md")
    if given.stays:
        return
    screened = {name: run(given, name, 0, "screening") for name in given.recipes}
    others = sorted(
        (name for name in given.recipes if name not in (UNFILTERED, "kiban")),
        key=lambda name: screened[name]["bits_per_character"]["mean"],
    )
    finalists = [name for name in (UNFILTERED, "kiban", *others[:2]) if name in given.recipes]
    finals = [run(given, name, seed, "final") for name in finalists for seed in range(given.seeds)]
    (given.to / "README.md").write_text(_page([*screened.values(), *finals]))
    print(given.to / "README.md")


def _programme(given: argparse.Namespace, name: str) -> Path:
    """The programme whose corpus is that of the recipe. Of the others, what the unfiltered one holds back is taken
    out, and what that left out as a copy of it: without the first, the copies would come in."""
    folder: Path = given.work / name
    folder.mkdir(parents=True, exist_ok=True)
    tables = tomllib.loads((ROOT / "recipes" / "open-text" / "kiban.toml").read_text(encoding="utf-8"))
    chosen = [s for s in tables["source"] if not given.sources or s["name"] in given.sources]
    corpus: dict[str, Any] = {"evaluation_data": "$KIBAN_DATA/eval", "recipe": name, "hold_back": 0.0}
    if name == UNFILTERED:
        (folder / "none.toml").write_text("rule = []\n")
        corpus |= {"recipe": "none.toml", "hold_back": 0.01}
    else:
        held = _corpus(given, UNFILTERED)
        ids = set(pq.read_table(held / "held_back.parquet", columns=["id"])["id"].to_pylist())
        left_out = pq.read_table(held / "ledger.parquet", columns=["id", "detail"]).to_pylist()
        ids |= {row["id"] for row in left_out if row["detail"].removeprefix("of ") in ids}
        corpus["withdrawn"] = sorted(f"document:{identity}" for identity in ids)
    programme = {
        "programme": {"name": name, "demo_keys": True},
        "partner": tables["partner"],
        "source": chosen,
        "corpus": corpus,
        "tokenizer": {"vocabulary": VOCABULARY},
    }
    (folder / "kiban.toml").write_text(tomli_w.dumps(programme), encoding="utf-8")
    return folder


def _made(given: argparse.Namespace, name: str, stage: str) -> Path:
    folder = given.work / name
    if not (folder / "kiban.toml").is_file():
        _programme(given, name)
    subprocess.run([KIBAN, "run", folder, "--to", stage], check=True, stdout=subprocess.DEVNULL)
    status = json.loads(subprocess.check_output([KIBAN, "status", folder, "--json"], text=True))
    return Path(next(s["path"] for s in status["stages"] if s["stage"] == stage))


def _corpus(given: argparse.Namespace, name: str) -> Path:
    return _made(given, name, "corpus")


def _stays(given: argparse.Namespace, name: str) -> dict[str, dict[str, Any]]:
    """For each source: documents that came to the rules, how many stayed, and the reasons of the others."""
    from kiban.corpus.quality import load_recipe, recipe_file

    folder = _corpus(given, name)
    recipe = load_recipe(recipe_file("none.toml" if name == UNFILTERED else name, given.work / name))
    reasons = {rule.reason for rule in recipe.rule}
    counted = {}
    for source, counts in json.loads((folder / "summary.json").read_text())["sources"].items():
        dropped = Counter({reason: n for reason, n in counts["dropped"].items() if reason in reasons})
        stayed = counts["documents_kept"] + counts["documents_held_back"]
        stayed += sum(n for reason, n in counts["dropped"].items() if reason.startswith("duplicate"))
        counted[source] = {"judged": stayed + dropped.total(), "stayed": stayed, "dropped": dropped.most_common(2)}
    return counted


def _stays_page(stays: dict[str, dict[str, dict[str, Any]]]) -> str:
    rows = []
    for name, sources in stays.items():
        for source, counts in sources.items():
            if counts["judged"]:
                why = ", ".join(f"{reason} {n / counts['judged']:.0%}" for reason, n in counts["dropped"])
                rows.append([name, source, str(counts["judged"]), f"{counts['stayed'] / counts['judged']:.0%}", why])
    lines = record.head("What stays of each source under each recipe", record.circumstances())
    lines += [
        "Documents that the rules judged (readable, not withdrawn), the share that stays, and what most others broke.",
        "",
        *record.table(["recipe", "source", "documents", "stay", "reasons"], rows),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _packed(given: argparse.Namespace, name: str) -> Path:
    """The recipe's corpus in tokens of the one tokenizer."""
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TOKENS, pack

    folder: Path = given.work / name / "packed"
    if (folder / TOKENS).is_file():
        return folder
    words = Tokenizer.load(_made(given, UNFILTERED, "tokenizer"))
    folder.mkdir(exist_ok=True)
    words.save(folder)

    def documents() -> Any:
        for shard in sorted((_corpus(given, name) / "shards").iterdir()):
            for batch in pq.ParquetFile(shard).iter_batches(columns=["id", "source", "text"]):
                for row in batch.to_pylist():
                    yield row["id"], row["source"], row["text"]

    for _ in pack(words, documents(), folder):
        pass
    return folder


def run(given: argparse.Namespace, name: str, seed: int, part: str) -> dict[str, Any]:
    """One training run and its figures, or its record if it is there. A run that is in both parts is trained once."""
    kept = given.to / f"{part}_{name}_{seed}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    packed = _packed(given, name)
    folder = given.work / name / f"seed-{seed}"
    if not (folder / "model.safetensors").is_file():
        options = [
            "--preset",
            "nano",
            "--steps",
            str(given.steps),
            "--seed",
            str(seed),
            "--threads",
            str(given.threads),
        ]
        command = [KIBAN, "train", "--data", packed, "--to", folder, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    exported = given.work / name / f"model-{seed}"
    if not (exported / "config.json").is_file():
        subprocess.run([KIBAN, "export", folder, "--to", exported], check=True, stdout=subprocess.DEVNULL)
    found = record.circumstances() | {"recipe": name, "seed": seed, "part": part, "steps": given.steps}
    found["bits_per_character"] = _bits(given, exported, slice(0 if part == "screening" else 1, None, 2))
    if part == "final":
        found["accuracy"] = _accuracy(given, exported)
    temporary = kept.with_suffix(".part")
    temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    temporary.rename(kept)
    print(kept.name, f"{found['bits_per_character']['mean']:.4f}", flush=True)
    return found


def _bits(given: argparse.Namespace, model: Path, half: slice) -> dict[str, float]:
    """Bits per character of the held-back documents of each source, and the mean of all sources."""
    from kiban.evaluation.scoring import Scorer

    rows = pq.read_table(_corpus(given, UNFILTERED) / "held_back.parquet", columns=["id", "source", "text"]).to_pylist()
    texts: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        texts.setdefault(row["source"], []).append(row["text"][:MOST_CHARACTERS])
    scorer = Scorer.load(model)
    bits = {}
    for source, held in sorted(texts.items()):
        if held[half]:
            scores = scorer.texts(held[half])
            bits[source] = sum(s.bits_per_character * s.characters for s in scores) / sum(s.characters for s in scores)
    return bits | {"mean": sum(bits.values()) / len(bits)}


def _accuracy(given: argparse.Namespace, model: Path) -> dict[str, float]:
    out = model.with_name(f"{model.name}-evaluation")
    suites = [option for suite in SUITES for option in ("--suite", suite)]
    command = [KIBAN, "eval", "run", model, *suites, "--limit", str(given.items), "--out", out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    suites_of = json.loads((out / "results.json").read_text())["suites"]
    return {name: suites_of[name]["metrics"]["accuracy"]["value"] for name in SUITES if "metrics" in suites_of[name]}


def _page(runs: list[dict[str, Any]]) -> str:
    lines = record.head("Recipes by what `nano` learns from them", runs[-1])
    for part in ("screening", "final"):
        of_part = [found for found in runs if found["part"] == part]
        sources = list(of_part[0]["bits_per_character"])
        rows = [
            [f["recipe"], str(f["seed"]), *(f"{f['bits_per_character'][source]:.4f}" for source in sources)]
            for f in of_part
        ]
        lines += [f"## {part.capitalize()}: bits per character", "", *record.table(["recipe", "seed", *sources], rows)]
    finals = [found for found in runs if found["part"] == "final"]
    suites = list(finals[0]["accuracy"])
    rows = [[f["recipe"], str(f["seed"]), *(f"{f['accuracy'][suite]:.3f}" for suite in suites)] for f in finals]
    lines += ["## Final: accuracy", "", *record.table(["recipe", "seed", *suites], rows)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
