"""Our tokenizer beside its peers, on text that no training saw: compression, encoding, decoding, training, look-ups.

    python benchmarks/tokenizer.py --llm-jp llm-jp-tokenizer_ver4.0_alpha1.0.model

The model file is in the public repository llm-jp/llm-jp-tokenizer, under models/. sentencepiece and rustbpe run in
`.venv-tokenizers`, which is made on first use. One core; medians of five, contestants in turn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-tokenizers"
NEEDED = ["sentencepiece==0.2.1", "rustbpe==0.1.0"]
ROUNDS = 5
LIMIT = 120  # seconds of a worker
VOCABULARY, SMALL, SMALL_MEGABYTES = 65536, 32768, 22.0
TRAINERS = ("kiban", "rustbpe", "sentencepiece")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-jp", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("KIBAN_DATA", "")))
    parser.add_argument("--work", type=Path, default=ROOT / ".benchmarks" / "tokenizer", help="text that is read once")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    if not (given.data / "corpora").is_dir() or not given.llm_jp.is_file():
        parser.error("--data (or KIBAN_DATA) and --llm-jp must name what there is")
    import record
    import tokenizer_text

    _peers()
    table = tokenizer_text.documents(given.data, given.work)
    held = tokenizer_text.held_back(table)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "held.json").write_text(json.dumps(held))
        figures: dict[str, Any] = record.circumstances()
        figures["held_back_bytes"] = {name: sum(len(text.encode()) for text in texts) for name, texts in held.items()}
        figures |= _coded(table, held, given.llm_jp, Path(folder))
        figures["training"] = _trained(table, Path(folder))
        figures["look_ups"] = [_looked_up(Path(folder), tokens) for tokens in (10**6, 10**7, 10**8)]
    print(record.write("tokenizer", figures, _markdown(figures, record), given.to))


def _peers() -> None:
    if not (PEER / "installed").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEER], check=True)
        subprocess.run([PEER / "bin" / "pip", "install", "--quiet", *NEEDED], check=True)
        (PEER / "installed").touch()


def _coded(table: Any, held: dict[str, list[str]], llm_jp: Path, folder: Path) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa
    import tiktoken
    import tokenizer_text

    from kiban.tokenizer.bpe import Tokenizer

    whole = Tokenizer.train(tokenizer_text.training(table, set()), VOCABULARY)
    foreign = Tokenizer.train(tokenizer_text.training(table, tokenizer_text.LAWS | tokenizer_text.PRODUCTS), VOCABULARY)
    theirs = tiktoken.Encoding("same", pat_str=whole.pattern, mergeable_ranks=whole.ranks(), special_tokens={})
    found: dict[str, Any] = {"characters_per_token": {}, "encode_mb_s": {}, "decode_mb_s": {}}
    for name, texts in held.items():
        strings = pa.array(texts, pa.large_string())
        size, characters = sum(len(text.encode()) for text in texts), sum(map(len, texts))
        ids, offsets = whole.encode_strings(strings)
        parts = [ids[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
        lists = [part.tolist() for part in parts]
        assert all(np.array_equal(theirs.encode_ordinary(t), p) for t, p in zip(texts, parts, strict=True))
        seconds: dict[str, list[float]] = {k: [] for k in ("kiban", "tiktoken", "decode kiban", "decode tiktoken")}
        unigram = []
        for _ in range(ROUNDS):
            for contestant, run in (
                ("kiban", lambda s=strings: whole.encode_strings(s)),
                ("tiktoken", lambda t=texts: [theirs.encode_to_numpy(text, disallowed_special=()) for text in t]),
                ("decode kiban", lambda li=lists: [whole.decode_bytes(part) for part in li]),
                ("decode tiktoken", lambda li=lists: [theirs.decode_bytes(part) for part in li]),
            ):
                begin = time.process_time()
                run()
                seconds[contestant].append(time.process_time() - begin)
            unigram.append(_worker(PEER / "bin" / "python", "unigram", llm_jp, folder / "held.json", name))
        count = unigram[0]["tokens"]
        found["characters_per_token"][name] = {
            "kiban 65,536": characters / len(ids),
            "without law and products": characters / len(foreign.encode_strings(strings)[0]),
            "llm-jp v4": characters / count,
        }
        median = {key: float(np.median(value)) for key, value in seconds.items()}
        found["encode_mb_s"][name] = {key: size / 1e6 / median[key] for key in ("kiban", "tiktoken")} | {
            "llm-jp v4 (sentencepiece unigram)": size / 1e6 / float(np.median([u["seconds"] for u in unigram]))
        }
        found["decode_mb_s"][name] = {key: size / 1e6 / median[f"decode {key}"] for key in ("kiban", "tiktoken")}
    return found


def _trained(table: Any, folder: Path) -> dict[str, Any]:
    import numpy as np
    import tokenizer_text

    texts, size = [], 0
    order = np.random.default_rng(0).permutation(table.num_rows)
    for text in tokenizer_text.training(table.take(order), set()):
        texts.append(text)
        size += len(text.encode())
        if size > SMALL_MEGABYTES * 1e6:
            break
    (folder / "training.json").write_text(json.dumps(texts))
    runs: dict[str, list[dict[str, float]]] = {trainer: [] for trainer in TRAINERS}
    given_up: set[str] = set()
    for _ in range(ROUNDS):
        for trainer in TRAINERS:
            if trainer in given_up:
                continue
            python = Path(sys.executable) if trainer == "kiban" else PEER / "bin" / "python"
            try:
                runs[trainer].append(_worker(python, trainer, folder / "training.json"))
            except subprocess.TimeoutExpired:
                print(f"{trainer}: given up after {LIMIT} s", flush=True)
                given_up.add(trainer)
                runs[trainer] = [{"seconds": float(LIMIT), "peak_mb": 0.0}]
    return {"given_up": sorted(given_up)} | {
        trainer: {key: float(np.median([run[key] for run in done])) for key in ("seconds", "peak_mb")}
        for trainer, done in runs.items()
    }


def _worker(python: Path, *arguments: object) -> dict[str, float]:
    command = [str(python), __file__, "--worker", *map(str, arguments)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT).stdout.splitlines()[-1]
    )


def work(kind: str, *arguments: str) -> None:
    """In a process, and for peers an environment, of its own: prints seconds of CPU, and peak memory less the text."""
    if kind == "unigram":
        import sentencepiece

        model, path, name = arguments
        texts = json.loads(Path(path).read_text())[name]
        made = sentencepiece.SentencePieceProcessor(model_file=model)
        begin = time.process_time()
        count = sum(len(made.encode(text)) for text in texts)
        print(json.dumps({"seconds": time.process_time() - begin, "tokens": count}))
        return
    texts = json.loads(Path(arguments[0]).read_text())
    if kind == "kiban":
        from kiban.tokenizer.bpe import Tokenizer

        Tokenizer.train(["あいあい"] * 9, 330, may_be_smaller=True)  # the kernels are compiled
    begin = time.process_time()
    if kind == "kiban":
        Tokenizer.train(texts, SMALL)
    elif kind == "rustbpe":
        import rustbpe

        pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
        rustbpe.Tokenizer().train_from_iterator(iter(texts), SMALL, pattern=pattern)
    else:
        import sentencepiece

        with tempfile.TemporaryDirectory() as folder:
            lines = (line for text in texts for line in text.splitlines() if line)
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_prefix=f"{folder}/m",
                vocab_size=SMALL,
                model_type="bpe",
                byte_fallback=True,
                normalization_rule_name="identity",
                num_threads=1,
                minloglevel=2,
                character_coverage=0.9995,
            )
    seconds = time.process_time() - begin
    print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _looked_up(folder: Path, tokens: int) -> dict[str, float]:
    """Milliseconds to resolve a place to its documents, and a document to its place, in synthetic packed tokens."""
    import numpy as np

    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore, pack

    words = Tokenizer.train(["安全靴を着用してください。"] * 9, 330, may_be_smaller=True)
    text = "安全靴を着用してください。" * 20
    each = len(words.encode(text)) + 2
    to = folder / str(tokens)
    to.mkdir()
    num = tokens // each
    for _ in pack(words, ((f"{i:032x}", "s", text) for i in range(num)), to):
        pass
    store = TokenStore.open(to)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, num - 1, 200)
    store.places_of(["0" * 32])
    begin = time.perf_counter()
    for row in rows:
        store.documents(int(row) * each, int(row) * each + 512)
    middle = time.perf_counter()
    for row in rows:
        assert [place.start for place in store.places_of([f"{row:032x}"])] == [row * each]
    end = time.perf_counter()
    return {
        "tokens": store.total,
        "documents": num,
        "place_ms": 1e3 * (middle - begin) / len(rows),
        "document_ms": 1e3 * (end - middle) / len(rows),
    }


def _markdown(figures: dict[str, Any], record: Any) -> str:
    lines = record.head("Tokenizers", figures)
    rates = figures["characters_per_token"]
    rows = [[domain, *(f"{value:.3f}" for value in row.values())] for domain, row in rates.items()]
    lines += ["## Characters a token", "", *record.table(["domain", *next(iter(rates.values()))], rows)]
    for ours in ("kiban 65,536", "without law and products"):
        ratios = [row[ours] / row["llm-jp v4"] for row in rates.values()]
        each = ", ".join(f"{domain} {ratio:.2f}" for domain, ratio in zip(rates, ratios, strict=True))
        lines += [f"- {ours} over llm-jp v4: {sum(ratios) / len(ratios):.2f} on average ({each})"]
    for what in ("encode_mb_s", "decode_mb_s"):
        rows = [[domain, *(f"{value:.1f}" for value in row.values())] for domain, row in figures[what].items()]
        columns = ["domain", *next(iter(figures[what].values()))]
        lines += ["", f"## {what.split('_')[0].capitalize()}, MB/s", "", *record.table(columns, rows)]
    training = figures["training"]
    rows = [
        [name, f"over {LIMIT}", "-"]
        if name in training["given_up"]
        else [name, f"{run['seconds']:.1f}", f"{run['peak_mb']:.0f}"]
        for name, run in training.items()
        if name != "given_up"
    ]
    lines += [f"## Training, {SMALL:,} entries on {SMALL_MEGABYTES:.0f} MB", ""]
    lines += record.table(["trainer", "CPU s", "peak MB, text included"], rows)
    rows = [[f"{r['tokens']:,}", f"{r['place_ms']:.2f}", f"{r['document_ms']:.2f}"] for r in figures["look_ups"]]
    lines += ["## Look-ups", "", *record.table(["tokens", "place -> documents, ms", "document -> place, ms"], rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
