"""Instructions from a file, and what is accepted as one: a sentence in Japanese."""

import json
import unicodedata
from collections.abc import Collection
from pathlib import Path

from kiban.artifacts.errors import KibanError

LONGEST = 200  # characters
LEAST_JAPANESE = 0.5  # of a sentence's letters


def check(sentence: str, where: str) -> str:
    """`sentence` without surrounding spaces.

    Japanese has kana; a sentence without any (Chinese, say) or with more letters of other scripts is another language.

    Raises:
        KibanError: if it is empty, too long, holds control characters, or is not Japanese.
    """
    sentence = sentence.strip()
    if not sentence:
        raise KibanError(f"{where}: the instruction is empty; say in Japanese what is to be done")
    if len(sentence) > LONGEST:
        raise KibanError(f"{where}: the instruction has {len(sentence)} characters; {LONGEST} are allowed")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn") for character in sentence):
        raise KibanError(f"{where}: the instruction holds control or unassigned characters; take them out")
    letters = [unicodedata.name(c, "") for c in sentence if unicodedata.category(c)[0] == "L"]
    kana = sum("HIRAGANA" in name or "KATAKANA" in name for name in letters)
    japanese = kana + sum(name.startswith("CJK ") for name in letters)
    if not kana or japanese < LEAST_JAPANESE * len(letters):
        raise KibanError(f"{where}: '{sentence[:30]}' is not Japanese; say it like 赤い箱を押してください")
    return sentence


def read(path: Path, tasks: Collection[str], needed: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Sentences of each task, in the file's order: lines `task<TAB>sentence`, or JSON `{"task": , "sentence": }`.

    Raises:
        KibanError: if the file cannot be read or holds no sentence, a line is neither, a task is none of `tasks`, a
            sentence is not Japanese, or one of `needed` has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KibanError(f"{path}: cannot be read as UTF-8 text ({error}); give lines of task, tab, sentence") from None
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        task, sentence = _parts(line, where)
        if task not in tasks:
            raise KibanError(f"{where}: there is no task '{task}' here; there is {', '.join(tasks)}")
        found.setdefault(task, []).append(check(sentence, where))
    missing = [task for task in needed if task not in found]
    if missing:
        raise KibanError(f"{path}: no sentence for {', '.join(missing)}; add one each, or leave out those tasks")
    if not found:
        raise KibanError(f"{path}: holds no sentence; give lines of task, tab, sentence")
    return {task: tuple(sentences) for task, sentences in found.items()}


def _parts(line: str, where: str) -> tuple[str, str]:
    if line.lstrip().startswith("{"):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise KibanError(f"{where}: not JSON ({error})") from None
        if set(entry) != {"task", "sentence"} or not all(isinstance(value, str) for value in entry.values()):
            raise KibanError(f'{where}: give {{"task": "...", "sentence": "..."}} and nothing else')
        return entry["task"], entry["sentence"]
    task, tab, sentence = line.partition("\t")
    if not tab:
        raise KibanError(f"{where}: no tab; give a task, a tab and a sentence, or JSON")
    return task.strip(), sentence
