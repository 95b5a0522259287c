"""The evaluation sets whose texts the corpus must not hold: those that come with Kiban, and all in a given folder."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError

# The texts of an item that no document may hold.
Item = tuple[str, ...]

KEYS = ("good", "bad", "question")
# Licences and notices; CoCoA-MT's `.annotated` are the same translations again, with marks.
NO_DATA = re.compile(r"(licen[cs]e|notice|readme|copying|index)\b.*|.*\.(md|annotated)|\..*", re.IGNORECASE)
COPA_PRONOUN = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")  # [as translated](what it stands for)


@dataclass(frozen=True)
class EvaluationSet:
    """A set: its files, and how one of them is read. In a set of our own (`short`) also texts that are too short for
    one gram are looked for, as whole sentences."""

    name: str
    files: tuple[Path, ...]
    read: Callable[[str], Iterable[Item]]
    short: bool = False

    def items(self) -> list[Item]:
        """Its items, in order.

        Raises:
            KibanError: naming the file that is not what its name says.
        """
        found: list[Item] = []
        for file in self.files:
            try:
                found += self.read(file.read_text(encoding="utf-8-sig"))
            except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
                raise KibanError(f"{file}: not the evaluation set {self.name} ({error}); restore the file") from None
        return found


def evaluation_sets(folder: Path | None) -> list[EvaluationSet]:
    """The sets that come with Kiban, and those in `folder`. There every file is read, but for licences and notices.

    Raises:
        KibanError: if there is no set in the folder, or a file that no reader is known for.
    """
    shipped = sorted((Path(str(resources.files("kiban"))) / "evaluation" / "data").glob("*.jsonl"))
    sets = [EvaluationSet(file.stem, (file,), _json_lines, short=True) for file in shipped]
    if folder is None:
        return sets
    left = {path for path in folder.rglob("*") if path.is_file() and not NO_DATA.fullmatch(path.name)}
    given = []
    for name, pattern, read in PUBLISHED:
        if files := sorted(left & set(folder.glob(pattern))):
            given.append(EvaluationSet(name, tuple(files), read))
            left -= set(files)
    for file in sorted(left):
        if file.suffix not in BY_ENDING:
            raise KibanError(
                f"[corpus] evaluation_data: {file} is of no known evaluation set, so it can't be kept out of the "
                f"corpus; give its texts as {' or '.join(BY_ENDING)}, or move the file elsewhere"
            )
        name = file.relative_to(folder).with_suffix("").as_posix()
        given.append(EvaluationSet(name, (file,), BY_ENDING[file.suffix]))
    if not given:
        raise KibanError(f"[corpus] evaluation_data: {folder} holds no evaluation set; correct the path")
    return sets + given


def _records(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines() if line.strip())


def _json_lines(text: str) -> Iterator[Item]:
    """The list under `decontaminate`, or else what stands under `good`, `bad` and `question`."""
    for record in _records(text):
        yield tuple(record.get("decontaminate") or [record[key] for key in KEYS if key in record])


def _first_column(text: str) -> Iterator[Item]:
    """CSV with a head."""
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        if row:
            yield (row[0],)


def _morality(text: str) -> Iterator[Item]:
    return ((row["sent"],) for row in csv.DictReader(io.StringIO(text)))


def _pairs(text: str) -> Iterator[Item]:
    return ((record["sentence1"], record["sentence2"]) for record in _records(text))


def _choices(text: str) -> list[Item]:
    return _questions([(record["question"], *(record[f"choice{i}"] for i in range(5))) for record in _records(text)])


def _jmmlu(text: str) -> list[Item]:
    """CSV without a head: question, four choices, answer."""
    return _questions([tuple(cell.strip() for cell in row[:5]) for row in csv.reader(io.StringIO(text)) if row])


def _questions(rows: Sequence[tuple[str, ...]]) -> list[Item]:
    """A question that several items ask ("which of these is right?") says nothing by itself: there it is looked for
    with its choices."""
    times = Counter(question for question, *_ in rows)
    return [(row[0],) if times[row[0]] == 1 else ("\n".join(row),) for row in rows]


def _squad(text: str) -> Iterator[Item]:
    """Each question with the paragraph that its answer stands in; JSQuAD puts the title and [SEP] before that."""
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"].split("[SEP]")[-1].strip()
            for question in paragraph["qas"]:
                yield question["question"], context


def _copa(text: str) -> Iterator[Item]:
    for record in _records(text):
        sentences = [record[key] for key in ("premise", "answer1", "answer2")]
        yield tuple(dict.fromkeys(COPA_PRONOUN.sub(group, s) for s in sentences for group in (r"\1", r"\2")))


def _cocoa(text: str) -> Iterator[Item]:
    return ((line,) for line in text.splitlines())


def _rows(text: str) -> Iterator[Item]:
    """Whole rows: single verb forms are everyday words, the table of them is the set."""
    return ((line,) for line in text.splitlines() if line.strip())


def _mgsm(text: str) -> Iterator[Item]:
    return ((line.split("\t")[0],) for line in text.splitlines() if line.strip())


def _conllu(text: str) -> Iterator[Item]:
    return ((line.removeprefix("# text = "),) for line in text.splitlines() if line.startswith("# text = "))


# Published sets as their publishers name the files: name, where in the folder, how a file is read.
PUBLISHED: tuple[tuple[str, str, Callable[[str], Iterable[Item]]], ...] = (
    ("jcommonsenseqa", "**/jcommonsenseqa-v1.*/*.json", _choices),
    ("jsquad", "**/jsquad-v1.*/*.json", _squad),
    ("jnli", "**/jnli-v1.*/*.json", _pairs),
    ("jsts", "**/jsts-v1.*/*.json", _pairs),
    ("jmmlu", "**/jmmlu/*.csv", _jmmlu),
    ("copa-ja", "**/copa-ja/*.jsonl", _copa),
    ("mgsm-ja", "**/mgsm_ja.tsv", _mgsm),
    ("jcommonsensemorality", "**/jcommonsensemorality/*.csv", _morality),
    ("keico", "**/keico_corpus.csv", _first_column),
    ("cocoa-mt", "**/formality-control.*", _cocoa),
    ("j-unimorph", "**/j-unimorph/*.tsv", _rows),
    ("ud-gsd", "**/*.conllu", _conllu),
)
BY_ENDING: dict[str, Callable[[str], Iterable[Item]]] = {".jsonl": _json_lines, ".csv": _first_column}
