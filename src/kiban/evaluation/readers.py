"""Publishers' files to items: one function a format."""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kiban.artifacts.hashing import sha256_bytes
from kiban.evaluation.suite import Item, Suite

Reader = Callable[[Suite, str, str, Path], Iterable[Item]]


def _lines(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines() if line.strip())


def _csv(text: str) -> Iterator[dict[str, str]]:
    for row in csv.DictReader(io.StringIO(text)):
        if None in row or None in row.values():
            raise ValueError(f"a row has another number of columns than the head: {list(row.values())[:2]}")
        yield row


def _pairs(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for row in _lines(text):
        yield Item(row["id"], row.get("context", ""), (row["good"], row["bad"]), 0, row["phenomenon"])


def _choice(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for row in _lines(text):
        answer = int(row["answer"])
        yield Item(
            row["id"], template.format(**row), tuple(row["choices"]), answer, row["phenomenon"], content=row["question"]
        )


def _jcommonsenseqa(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for row in _lines(text):
        choices = tuple(row[f"choice{i}"] for i in range(5))
        yield Item(str(row["q_id"]), template.format(**row), choices, int(row["label"]), content=row["question"])


LETTERS = ("A", "B", "C", "D")


def _jmmlu(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """CSV without a head: question, A, B, C, D, answer. A file is a subject."""
    for number, row in enumerate(csv.reader(io.StringIO(text))):
        question, a, b, c, d, answer = (cell.strip() for cell in row)
        prompt = template.format(question=question, A=a, B=b, C=c, D=d)
        yield Item(f"{file.stem}-{number}", prompt, LETTERS, LETTERS.index(answer), file.stem, content=question)


JNLI_LABELS = ("entailment", "contradiction", "neutral")


def _jnli(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """`suite.choices` are the words for entailment, contradiction and neutral."""
    for row in _lines(text):
        answer = JNLI_LABELS.index(row["label"])
        yield Item(
            row["sentence_pair_id"], template.format(**row), suite.choices, answer, row["label"], content=_both(row)
        )


def _both(row: dict[str, Any]) -> str:
    return f"{row['sentence1']}\n{row['sentence2']}"


def _jsts(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for row in _lines(text):
        value = float(row["label"])
        if not 0.0 <= value <= 5.0:
            raise ValueError(f"item {row['sentence_pair_id']}: {value} is no similarity from 0 to 5")
        yield Item(row["sentence_pair_id"], template.format(**row), suite.choices, value=value, content=_both(row))


def _squad(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """SQuAD's JSON, as JSQuAD and JaQuAD have it. JSQuAD puts the article's title and [SEP] before a context."""
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"].split("[SEP]")[-1].strip()
            for question in paragraph["qas"]:
                prompt = template.format(context=context, question=question["question"])
                references = tuple(dict.fromkeys(answer["text"] for answer in question["answers"]))
                yield Item(question["id"], prompt, references=references, content=question["question"])


# A translation with what a pronoun stands for: [彼女の](女性の)友人. The second is the more natural text.
_PRONOUN = re.compile(r"\[[^\]]*\]\(([^)]*)\)")


def _copa(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for row in _lines(text):
        premise, *answers = (_PRONOUN.sub(r"\1", row[key]).strip() for key in ("premise", "answer1", "answer2"))
        link = {"原因": "なぜなら、", "結果": "その結果、"}[row["asks_for"]]
        prompt = template.format(premise=premise, link=link, asks_for=row["asks_for"])
        yield Item(
            str(row["id"]), prompt, tuple(answers), int(row["correct_answer"]) - 1, row["asks_for"], content=premise
        )


def _mgsm(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for number, line in enumerate(text.splitlines()):
        question, answer = line.split("\t")
        yield Item(
            str(number),
            template.format(question=question),
            references=(str(int(answer.replace(",", ""))),),
            content=question,
        )


def _morality(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """`suite.choices` are the words for 0 (acceptable) and 1 (wrong)."""
    for row in _csv(text):
        yield Item(
            row[""],
            template.format(sentence=row["sent"]),
            suite.choices,
            ("0", "1").index(row["label"]),
            content=row["sent"],
        )


KEICO_LEVELS = ("1", "2", "3", "4")
KEICO_FLAGS = ("尊敬語", "謙譲語", "丁寧語")


def _keico(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """Which of four levels of honorifics a sentence has, after five examples: the first of each level in the file's
    order, and the first that is left. The examples are no items."""
    rows = list(enumerate(_csv(text)))
    shown = [next(row for row in rows if row[1]["Level"] == level) for level in KEICO_LEVELS]
    shown.append(next(row for row in rows if row not in shown))
    shown.sort(key=lambda row: row[0])
    examples = "".join(template.format(sentence=row["本文"]) + row["Level"] + "\n\n" for _, row in shown)
    for number, row in rows:
        if (number, row) not in shown:
            label = KEICO_LEVELS.index(row["Level"])
            prompt = template.format(sentence=row["本文"])
            yield Item(
                str(number),
                prompt,
                KEICO_LEVELS,
                label,
                f"level {row['Level']}",
                examples=examples,
                content=row["本文"],
            )


def _keico_flags(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """Whether a sentence has 尊敬語, 謙譲語 or 丁寧語, each after five examples: the file's first two that have it, the
    first two that have not, and the first that is left. `suite.choices` are the words for no and yes."""
    rows = list(enumerate(_csv(text)))
    for flag in KEICO_FLAGS:
        has = [row for row in rows if row[1][flag] == "1"]
        has_not = [row for row in rows if row[1][flag] == "0"]
        if len(has) + len(has_not) != len(rows):
            raise ValueError(f"{flag} is neither 0 nor 1 in {len(rows) - len(has) - len(has_not)} rows")
        shown = [*has[:2], *has_not[:2]]
        shown.append(next(row for row in rows if row not in shown))
        shown.sort(key=lambda row: row[0])
        answers = [(number, row, suite.choices[int(row[flag])]) for number, row in shown]
        examples = "".join(template.format(sentence=row["本文"], flag=flag) + word + "\n\n" for _, row, word in answers)
        for number, row in rows:
            if (number, row) not in shown:
                prompt = template.format(sentence=row["本文"], flag=flag)
                yield Item(
                    f"{flag}-{number}",
                    prompt,
                    suite.choices,
                    int(row[flag]),
                    flag,
                    examples=examples,
                    content=row["本文"],
                )


COCOA_DOMAINS = ("telephony", "topical_chat")


def _cocoa(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """Two items a segment: which of its two translations is the formal one, and which the informal. Whoever likes one
    of the two better is right once. Segments whose translations are the same say nothing, and are left out."""
    if file.suffix != ".en-ja":  # its translations, which are read with it
        return
    domain = next(name for name in COCOA_DOMAINS if f".{name}." in file.name)
    parts = [text.splitlines()]
    parts += [file.with_name(file.name + kind).read_text("utf-8").splitlines() for kind in (".formal", ".informal")]
    for number, (source, formal, informal) in enumerate(zip(*parts, strict=True)):
        if formal == informal:
            continue
        for answer, manner in enumerate(("丁寧な言い方", "くだけた言い方")):
            prompt = template.format(source=source.strip(), manner=manner)
            group = f"{domain}, {('formal', 'informal')[answer]}"
            yield Item(
                f"{domain}-{number}-{answer}",
                prompt,
                (formal, informal),
                answer,
                group,
                content=f"{formal}\n{informal}",
            )


# UniMorph's features of J-UniMorph as a person would ask for them. What is not here is not asked.
_INFLECTIONS = {
    "NEG": "打ち消し",
    "PST": "過去",
    "POL;FOREG": "丁寧（です・ます）",
    "PROSP": "推量",
    "INTEN": "意志",
    "OPT": "希望",
    "IMP;OBLIG": "命令",
    "POT": "可能",
    "PASS": "受け身",
    "CAUS": "使役",
    "ELEV": "尊敬語",
    "HUMB": "謙譲語",
}
_SILENT = {"V", "PRS", "IPFV", "PFV", "FORM", "1"}


def _j_unimorph(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """A verb and what is asked of it; four of its forms, one of which has those features and no other. Groups by what
    is the hardest: honorific forms, other polite ones, plain ones."""
    forms: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in text.splitlines():
        lemma, form, features = line.split("\t")
        if asked := _asked_for(features):
            forms[lemma][asked].add(form)
    for lemma, by_features in forms.items():
        counts: dict[str, int] = defaultdict(int)
        for found in by_features.values():
            for form in found:
                counts[form] += 1
        single = {asked: min(found) for asked, found in by_features.items() if len(found) == 1}
        single = {asked: form for asked, form in single.items() if counts[form] == 1}
        for asked, form in single.items():
            others = sorted((other for other in single if other != asked), key=lambda o: _closest(asked, o, lemma))
            choices = [form, *(single[other] for other in others[:3])]
            choices.sort(key=lambda choice: sha256_bytes((lemma + asked + choice).encode()))
            if len(choices) == 4:
                group = (
                    "honorific" if "尊敬語" in asked or "謙譲語" in asked else "polite" if "丁寧" in asked else "plain"
                )
                prompt = template.format(lemma=lemma, features=asked)
                yield Item(f"{lemma}-{asked}", prompt, tuple(choices), choices.index(form), group)


def _asked_for(features: str) -> str:
    """The features in words, in UniMorph's order; empty where one of them has none."""
    rest = features.replace("POL;FOREG", "POL-FOREG").replace("IMP;OBLIG", "IMP-OBLIG").split(";")
    words = [_INFLECTIONS.get(name.replace("-", ";")) for name in rest if name not in _SILENT]
    return "・".join(word for word in words if word) if words and all(words) else ""


def _closest(asked: str, other: str, lemma: str) -> tuple[int, str]:
    """Wrong forms that differ in one feature come first."""
    return len(set(asked.split("・")) ^ set(other.split("・"))), sha256_bytes((lemma + asked + other).encode())


def _conllu(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    """The sentences of a treebank, as text."""
    name = ""
    for line in text.splitlines():
        if line.startswith("# sent_id = "):
            name = line.removeprefix("# sent_id = ")
        elif line.startswith("# text = "):
            yield Item(name, line.removeprefix("# text = "))


def _register(suite: Suite, template: str, text: str, file: Path) -> Iterator[Item]:
    for row in _lines(text):
        yield Item(row["id"], template.format(**row), by=row["register"], content=row["question"])


READERS: dict[str, Reader] = {
    "choice": _choice,
    "cocoa": _cocoa,
    "conllu": _conllu,
    "copa": _copa,
    "j-unimorph": _j_unimorph,
    "jcommonsenseqa": _jcommonsenseqa,
    "jmmlu": _jmmlu,
    "jnli": _jnli,
    "jsts": _jsts,
    "keico": _keico,
    "keico-flags": _keico_flags,
    "mgsm": _mgsm,
    "morality": _morality,
    "pairs": _pairs,
    "register": _register,
    "squad": _squad,
}
