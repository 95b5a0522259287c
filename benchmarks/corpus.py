"""Speed of the corpus room against its peers, and of the whole chain, on Aozora and Markdown below `$KIBAN_DATA`.

    python benchmarks/corpus.py                       # everything; about a quarter of an hour on one core
    python benchmarks/corpus.py --only words --rounds 1
    python benchmarks/corpus.py --chain kiban swallow-v1 --only

For each task the contestants take turns, each turn a process of its own in an environment of its own, for `--rounds`
rounds on the same texts. Leaves a record in `benchmarks/results/`.
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import peers  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import record  # noqa: E402

from kiban import __version__  # noqa: E402
from kiban.corpus.documents import Document  # noqa: E402
from kiban.corpus.pieces import pieces  # noqa: E402
from kiban.corpus.readers import FORMATS  # noqa: E402

# name in the record: megabytes of text, whether verdicts are compared, and contestants with the speed asked of Kiban.
TASKS: dict[str, tuple[float, bool, dict[str, float | None]]] = {
    "minhash": (
        3.0,
        False,
        {
            "kiban_minhash": None,
            "kiban_minhash_64": None,
            "datasketch_minhash": 50,
            "rensa_minhash": 10,
            "datatrove_minhash": 300,
        },
    ),
    "swallow": (6.0, True, {"kiban_swallow": None, "swallow_filter": 20}),
    "fineweb2": (1.5, True, {"kiban_fineweb": None, "datatrove_filters": 100}),
    "words": (6.0, True, {"kiban_words": None, "hojichar_words": 50}),
}
CHAIN_TARGET = {"kiban": 15.0}
SOURCES = (
    ("aozora", "aozora", "aozora-sjis.tar.zst"),
    ("d365", "markdown", "d365-ja-md.tar.zst"),
    ("opentelemetry", "markdown", "opentelemetry-spec-ja-md.tar.zst"),
    ("react", "markdown", "react-docs-ja-md.tar.zst"),
    ("rust-book", "markdown", "rust-book-ja-md.tar.zst"),
    ("rust-by-example", "markdown", "rust-by-example-ja-md.tar.zst"),
    ("vite", "markdown", "vite-docs-ja-md.tar.zst"),
    ("vue", "markdown", "vue-docs-ja-md.tar.zst"),
)
K = 128
SEED = 20260412
# One core: no library may take another.
ONE_CORE = {name: "1" for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS", "ARROW_IO_THREADS")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS), help="tasks to run")
    parser.add_argument(
        "--chain", nargs="*", default=["kiban", "swallow-v1"], help="recipes to run the whole chain with"
    )
    parser.add_argument("--contestants", nargs="*", help="of kiban, datasketch, rensa and so on; all without it")
    parser.add_argument("--sources", nargs="*", choices=[name for name, *_ in SOURCES], help="all without it")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    args = parser.parse_args()
    data = os.environ.get("KIBAN_DATA")
    if not data:
        sys.exit("KIBAN_DATA: set it to the folder that holds corpora/")
    figures: dict[str, Any] = record.circumstances() | {"rounds": args.rounds, "tasks": {}, "chain": {}, "versions": {}}
    with tempfile.TemporaryDirectory() as folder:
        wanted = args.sources or [name for name, *_ in SOURCES]
        sources = [[name, kind, str(Path(data) / "corpora" / file)] for name, kind, file in SOURCES if name in wanted]
        texts, megabytes = read_all(sources)
        for task in args.only:
            figures["tasks"][task] = compare(task, texts, args, Path(folder), figures["versions"])
        turns: dict[str, list[dict[str, Any]]] = {recipe: [] for recipe in args.chain}
        for _ in range(args.rounds):
            for recipe in args.chain:
                turns[recipe].append(chain(recipe, sources, megabytes, Path(folder)))
        figures["chain"] = turns
        figures["chain_megabytes"] = megabytes
    print(record.write("corpus", figures, markdown(figures), args.results))


def read_all(sources: list[list[str]]) -> tuple[list[str], float]:
    """All texts of the sources, as the readers give them, and how many megabytes of UTF-8 those are."""
    texts = []
    for name, format, file in sources:
        for piece in pieces(name, format, Path(file), 0, 0):
            for member in piece.members:
                found = FORMATS[format].read(member, FORMATS[format].encoding)
                texts += [item.text for item in found if isinstance(item, Document)]
    return texts, sum(len(text.encode()) for text in texts) / 1e6


def compare(
    task: str, texts: list[str], args: argparse.Namespace, folder: Path, versions: dict[str, str]
) -> dict[str, Any]:
    size, verdicts, contestants = TASKS[task]
    draw = random.Random(SEED)
    sample: list[str] = []
    left = size * 1e6
    for text in draw.sample(texts, len(texts)):
        if left > 0:
            sample.append(text)
            left -= len(text.encode())
    path = folder / f"{task}.parquet"
    pq.write_table(pa.table({"text": pa.array(sample, pa.string())}), path)
    found: dict[str, Any] = {"documents": len(sample), "megabytes": size, "contestants": {}}
    for _ in range(args.rounds):
        for contestant in contestants:
            peer = contestant.split("_")[0]
            if args.contestants and peer not in args.contestants:
                continue
            python = Path(sys.executable) if peer == "kiban" else peers.python_of(peer)
            job = {"contestant": contestant, "text": str(path), "k": K, "verdicts": verdicts, "least_seconds": 0.5}
            if task == "words":
                job["lists"] = str(lists_of_hojichar())
            job["version"] = __version__ if peer == "kiban" else peers.CLONES.get(peer, ("", "?", []))[1][:7]
            turn = run([python, ROOT / "benchmarks" / "run_curation.py"], job, folder, peer == "kiban")
            print(task, contestant, turn.get("error") or f"{turn['mb_per_s']:.2f} MB/s", flush=True)
            found["contestants"].setdefault(contestant, []).append(turn)
            versions[peer] = turn.get("version", versions.get(peer, "?"))
    return found


def lists_of_hojichar() -> Path:
    """The folder of its package, here or in the peer's environment."""
    if (found := importlib.util.find_spec("hojichar")) and found.origin:
        return Path(found.origin).parent
    command = [peers.python_of("hojichar"), "-c", "import hojichar; print(hojichar.__path__[0])"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def chain(recipe: str, sources: list[list[str]], megabytes: float, scratch: Path) -> dict[str, Any]:
    """One run of the stage `corpus` on all sources, in a process of its own."""
    job = {"recipe": recipe, "sources": sources, "megabytes": megabytes, "store": str(scratch)}
    turn = run([sys.executable, ROOT / "benchmarks" / "run_chain.py"], job, scratch, True)
    print("chain", recipe, turn.get("error") or f"{turn['mb_per_s']:.2f} MB/s", flush=True)
    return turn


def run(command: list[Any], job: dict[str, Any], folder: Path, ours: bool) -> dict[str, Any]:
    """One turn in a process of its own: what it found, or its error."""
    path, out = folder / "job.json", folder / "out.json"
    path.write_text(json.dumps(job | {"out": str(out)}))
    environment = os.environ | ONE_CORE | {"PYTHONPATH": str(ROOT / "src") if ours else ""}
    done = subprocess.run([*command, path], env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"error": record.reason(done)}
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def markdown(figures: dict[str, Any]) -> str:
    lines = record.head("The corpus room, side by side", figures)
    lines += [f"- {name}: {version}" for name, version in sorted(figures["versions"].items())]
    lines += [
        "",
        f"Medians of {figures['rounds']} rounds, and the least to the most; processor time of one core, MB of "
        "UTF-8. Ratios are of turns in the same round. Peers get Python strings, Kiban an Arrow array. Agreement: the "
        "share of documents that both keep or both drop.",
        "",
    ]
    for task, found in figures["tasks"].items():
        ours = next(iter(found["contestants"].values()))
        rows = []
        for contestant, turns in found["contestants"].items():
            row = [contestant, *_speed(turns)]
            asked = TASKS[task][2][contestant]
            pairs = [(a, b) for a, b in zip(ours, turns, strict=True) if "error" not in a and "error" not in b]
            if asked is None or not pairs:
                row += ["", "", ""]
            else:
                ratios = [a["mb_per_s"] / b["mb_per_s"] for a, b in pairs]
                row += [_span(ratios, 1), f"{asked:g}x: {_verdict(record.median(ratios) >= asked)}"]
                a, b = pairs[0]
                same = [x == y for x, y in zip(a["verdicts"], b["verdicts"], strict=True)]
                row += [f"{sum(same) / len(same):.1%}" if same else ""]
            rows.append(row)
        lines += [f"## {task}: {found['documents']} documents, {found['megabytes']:g} MB", ""]
        lines += record.table(["contestant", "MB/s", "Kiban's speed over it", "asked", "agreement"], rows)
        for contestant, turns in found["contestants"].items():
            errors = [turn["error"] for turn in turns if "error" in turn]
            lines += [f"- {contestant} could not run: `{errors[0]}`", ""] if errors else []
    if figures["chain"]:
        lines += [f"## The whole chain: {figures['chain_megabytes']:.1f} MB leaving the readers", ""]
        rows = []
        for recipe, turns in figures["chain"].items():
            speed = _speed(turns)
            whole = [turn for turn in turns if "error" not in turn]
            asked = CHAIN_TARGET.get(recipe)
            reached = _verdict(record.median([t["mb_per_s"] for t in whole]) >= asked) if asked and whole else ""
            kept = f"{whole[0]['documents_kept']} of {whole[0]['documents_in']}" if whole else turns[0].get("error", "")
            rows.append([recipe, *speed, f"{asked:g} MB/s: {reached}" if asked else "", kept])
        lines += record.table(["recipe", "MB/s", "asked", "documents kept"], rows)
        lines += [
            "Read, normalise, judge, decontaminate against the sets that come with Kiban, mask, deduplicate, hold "
            "back, write.",
            "",
        ]
    return "\n".join(lines) + "\n"


def _speed(turns: list[dict[str, Any]]) -> list[str]:
    speeds = [turn["mb_per_s"] for turn in turns if "error" not in turn]
    return [_span(speeds, 2) if speeds else "failed"]


def _span(values: list[float], digits: int) -> str:
    return f"{record.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


if __name__ == "__main__":
    main()
