"""Instructions to a robot, and which of four actions they mean: composed where the language is regular, else by hand.

They come in fours that share a scene and their choices, each of which is right once. So a choice alone, its length and
its place tell nothing. The choices of a four differ in one slot.

`python -m kiban.evaluation.sets.shiji` writes data/shiji.jsonl from shiji-tables.txt and shiji-by-hand.txt.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kiban.evaluation.sets.tables import DATA, HERE, Tables, read

SEED = 20261125
COMPOSED = "hand（表と型から。意味は国語辞典の一般の語釈による）"
HAND = "hand"

Row = dict[str, Any]


@dataclass(frozen=True)
class Four:
    """Four things said in `scene`: number i means action number i, for reason number i."""

    phenomenon: str
    source: str
    scene: str
    actions: tuple[str, ...]
    said: tuple[str, ...]
    reasons: tuple[str, ...]


def action(**slots: object) -> str:
    """As compact JSON; names are quoted, numbers are not."""
    return json.dumps(slots, separators=(",", ":"))


def counted(tables: Tables) -> Iterator[Four]:
    for thing, name, place, spoken, written in tables["counted"]:
        words, numbers = spoken.split(), written.split()
        frames = [frame for [frame] in tables["counting frames"]]
        yield Four(
            "数える",
            COMPOSED,
            f"{place}に{thing}がたくさんある。",
            tuple(action(act="take", obj=name, n=int(number)) for number in numbers),
            tuple(f.format(thing=thing, place=place, n=word) for f, word in zip(frames, words, strict=True)),
            tuple(f"{thing}を「{w}」なので、数は{n}である。" for w, n in zip(words, numbers, strict=True)),
        )


LETTERS = "ABCD"


def sorts(tables: Tables) -> Iterator[Four]:
    frames = [frame for [frame] in tables["sorting frames"]]
    for number, (what, kinds, to) in enumerate(tables["sorts"]):
        names = kinds.split()
        named = "、".join(f"{name}（{letter}）" for name, letter in zip(names, LETTERS, strict=True))
        rest = [[other for other in LETTERS if other != letter] for letter in LETTERS]
        yield Four(
            "否定と例外",
            COMPOSED,
            f"ここに{named}がある。",
            tuple(action(act="carry", obj=letters) for letters in rest),
            tuple(frames[(i + number) % 4].format(x=names[i], what=what, to=to) for i in range(4)),
            tuple(f"{names[i]}の{LETTERS[i]}を除くので、{'、'.join(rest[i])}を運ぶ。" for i in range(4)),
        )


def places(tables: Tables) -> Iterator[Four]:
    frames = [frame for [frame] in tables["placing frames"]]
    for number, (thing, name, ref, ref_name, relations, relation_names) in enumerate(tables["places"]):
        words, names = relations.split(), relation_names.split()
        yield Four(
            "位置関係",
            COMPOSED,
            f"ロボットのそばに{thing}と{ref}がある。",
            tuple(action(act="put", obj=name, rel=relation, ref=ref_name) for relation in names),
            tuple(frames[(i + number) % 4].format(thing=thing, ref=ref, rel=words[i]) for i in range(4)),
            tuple(f"置く先は{ref}の「{word}」である。" for word in words),
        )


def handled(tables: Tables) -> Iterator[Four]:
    frames = [frame for [frame] in tables["handling frames"]]
    for number, (thing, name, verbs, verb_names) in enumerate(tables["handled"]):
        words, names = verbs.split(), verb_names.split()
        yield Four(
            "動作",
            COMPOSED,
            f"ロボットの前に{thing}がある。",
            tuple(action(act=verb, obj=name) for verb in names),
            tuple(frames[(i + number) % 4].format(thing=thing, verb=words[i]) for i in range(4)),
            tuple(f"「{word}」が表す動作は{verb}である。" for word, verb in zip(words, names, strict=True)),
        )


def paths(tables: Tables) -> Iterator[Four]:
    frames = [frame for [frame] in tables["path frames"]]
    for number, (distance, centimetres) in enumerate(tables["paths"]):
        yield Four(
            "程度と量",
            COMPOSED,
            "ロボットは部屋の中央に立っている。",
            tuple(action(act="move", dir=name, cm=int(centimetres)) for _, name in tables["directions"]),
            tuple(
                frames[(i + number) % 4].format(dir=word, distance=distance)
                for i, (word, _) in enumerate(tables["directions"])
            ),
            tuple(f"向きは「{word}」、距離は{distance}である。" for word, _ in tables["directions"]),
        )


def by_hand() -> Iterator[Four]:
    """See the head of the file for its form."""
    phenomenon = scene = ""
    actions: tuple[str, ...] = ()
    said: list[tuple[str, ...]] = []
    for line in (HERE / "shiji-by-hand.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            phenomenon = line.strip("[]")
        elif line.startswith("@"):
            scene = line.removeprefix("@").strip().replace("／", "\n")
        elif line.startswith("="):
            template, values = line.removeprefix("=").strip().split(" : ")
            actions = tuple(template.replace("%", value.strip()) for value in values.split(" | "))
        elif line and not line.startswith("#"):
            said.append(tuple(field.strip() for field in line.split("|")))
            if len(said) == 4:
                words, reasons = zip(*said, strict=True)
                yield Four(phenomenon, HAND, scene, actions, words, reasons)
                said = []
    assert not said, "a four by hand that is not whole"


def rows() -> list[Row]:
    tables = read("shiji-tables.txt")
    fours = [four for part in (counted, sorts, places, handled, paths) for four in part(tables)]
    found = _rows("shiji", fours)
    return found + _rows("shiji-hand", list(by_hand()))


def _rows(prefix: str, fours: list[Four]) -> list[Row]:
    """The choices of each item are dealt anew; in a four, each place is right once."""
    deal = random.Random(SEED)
    found: list[Row] = []
    for number, four in enumerate(fours, 1):
        assert len(four.actions) == len(four.said) == len(four.reasons) == 4
        answers = deal.sample(range(4), 4)
        for i, (said, reason, answer) in enumerate(zip(four.said, four.reasons, answers, strict=True)):
            choices = deal.sample([action for action in four.actions if action != four.actions[i]], 3)
            choices.insert(answer, four.actions[i])
            found.append(
                {
                    "id": f"{prefix}-{number:03}{'abcd'[i]}",
                    "question": f"{four.scene}\n「{said}」",
                    "choices": choices,
                    "answer": answer,
                    "phenomenon": four.phenomenon,
                    "source": four.source,
                    "rationale": reason,
                }
            )
    return found


def main() -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
    (DATA / "shiji.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
