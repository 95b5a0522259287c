"""One turn of one contestant of `corpus.py`, in its own environment: reads a job, writes seconds and what it found.

A contestant is a function that prepares what does not depend on the text and gives a function of the texts (an Arrow
array), whose time is taken: processor time of the process, the first call on a few texts apart. Peers get Python
strings, made before the clock starts; Kiban gets the Arrow array.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Work = Callable[[Any], list[Any]]
NGRAM = 5
JOB: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())


def kiban_minhash() -> Work:
    from kiban.corpus.minhash import signatures

    return lambda texts: list(signatures(texts, JOB["k"]))


def kiban_minhash_64() -> Work:
    from kiban.corpus.minhash import signatures

    return lambda texts: list(signatures(texts, JOB["k"], 64))


def datasketch_minhash() -> Work:
    from datasketch import MinHash

    def work(texts: list[str]) -> list[Any]:
        made = []
        for text in texts:
            signature = MinHash(num_perm=JOB["k"])
            signature.update_batch([text[i : i + NGRAM].encode() for i in range(len(text) - NGRAM + 1)])
            made.append(signature)
        return made

    return work


def rensa_minhash() -> Work:
    from rensa import RMinHash

    def work(texts: list[str]) -> list[Any]:
        made = []
        for text in texts:
            signature = RMinHash(num_perm=JOB["k"], seed=1)
            signature.update([text[i : i + NGRAM] for i in range(len(text) - NGRAM + 1)])
            made.append(signature.digest())
        return made

    return work


def datatrove_minhash() -> Work:
    import tempfile

    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    hashing = HashConfig(hash_fc="xxhash", precision=64)
    config = MinhashConfig(hash_config=hashing, num_buckets=14, hashes_per_bucket=8, n_grams=5)

    def work(texts: list[str]) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:
            stage = MinhashDedupSignature(output_folder=folder, config=config, language="jpn_Jpan")
            stage.run([Document(text=text, id=str(i)) for i, text in enumerate(texts)], rank=0, world_size=1)
        return texts

    return work


def kiban_swallow() -> Work:
    return _recipe("swallow-v1")


def swallow_filter() -> Work:
    sys.path.insert(0, str(Path(sys.prefix) / "swallow"))
    import quality

    def kept(text: str) -> bool:
        try:
            return quality.apply_v1(quality.main({"text": text}))
        except (IndexError, ValueError):  # of a text of less than four characters, or without a sentence
            return False

    return lambda texts: [kept(text) for text in texts]


def kiban_fineweb() -> Work:
    return _recipe("fineweb2-jpn", but="not_japanese")  # in the place of a language score, which the peer gets before


def datatrove_filters() -> Work:
    from datatrove.data import Document
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    japanese = {"language": "jpn_Jpan"}
    grams = {"top": [(2, 0.239), (3, 0.196), (4, 0.172)]}
    grams["dup"] = [(5, 0.243), (6, 0.225), (7, 0.207), (8, 0.19), (9, 0.175), (10, 0.159)]
    filters = [
        GopherRepetitionFilter(
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=0.328,
            top_n_grams=grams["top"],
            dup_n_grams=grams["dup"],
            **japanese,
        ),
        FineWebQualityFilter(
            short_line_thr=999, char_duplicates_ratio=0.1, line_punct_thr=0.096, new_line_ratio=0.13, **japanese
        ),
        GopherQualityFilter(
            max_avg_word_length=6,
            min_avg_word_length=1,
            stop_words=list("のにをはたてがとで年し・月れさ"),
            max_non_alpha_words_ratio=0.759,
            min_stop_words=2,
            **japanese,
        ),
    ]

    def work(texts: list[str]) -> list[Any]:
        documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
        # Like the pipeline, a document that is out at one filter does not reach the next.
        return [all(step.filter(document) is True for step in filters) for document in documents]

    return work


def kiban_words() -> Work:
    from kiban.corpus.quality import PACKAGES
    from kiban.corpus.words import automaton, count

    file = Path(JOB["lists"]) / PACKAGES["hojichar"] / "adult_keywords_ja.txt"
    lines = file.read_text(encoding="utf-8").split("\n")
    words = automaton([line.strip() for line in dict.fromkeys(lines) if line])
    return lambda texts: list(count(texts, words)[:, 0] == 0)


def hojichar_words() -> Work:
    from hojichar import Document
    from hojichar.filters.document_filters import DiscardAdultContentJa

    words = DiscardAdultContentJa()  # the longest of its lists; it stops at the first word that it finds
    return lambda texts: [not words.apply(Document(text)).is_rejected for text in texts]


def _recipe(name: str, but: str = "") -> Work:
    from kiban.corpus.quality import figures, judge, load_recipe, recipe_file

    recipe = load_recipe(recipe_file(name, Path()))
    recipe = recipe.model_copy(update={"rule": tuple(rule for rule in recipe.rule if rule.reason != but)})

    def work(texts: pa.StringArray) -> list[Any]:
        out = {verdict.row for verdict in judge(recipe, figures(recipe, texts), [""] * len(texts))}
        return [row not in out for row in range(len(texts))]

    return work


def main() -> None:
    texts = pq.read_table(JOB["text"])["text"].combine_chunks()
    texts = texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts
    megabytes = sum(len(text.encode()) for text in texts.to_pylist()) / 1e6
    work = globals()[JOB["contestant"]]()
    given = texts if JOB["contestant"].startswith("kiban") else texts.to_pylist()
    work(given[:5])
    calls, seconds = 0, 0.0
    while seconds < JOB["least_seconds"]:
        start = time.process_time()
        found = work(given)
        seconds += time.process_time() - start
        calls += 1
    verdicts = [bool(value) for value in found] if JOB["verdicts"] else []
    package = JOB["contestant"].split("_")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = JOB["version"]
    result = {"mb_per_s": megabytes * calls / seconds, "calls": calls, "verdicts": verdicts, "version": version}
    Path(JOB["out"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
