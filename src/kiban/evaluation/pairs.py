"""Minimal pairs where the language is regular.

They are composed from tables, so that every form is right in as many pairs as it is wrong. A model that merely
prefers a form, or the shorter sentence, stays at chance.

`python -m kiban.evaluation.pairs` writes data/joshi.jsonl and josuushi.jsonl: these pairs, and behind them those of
data/by-hand.jsonl. Those of honorifics: `sets/keigo.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"

Pair = tuple[str, str, str, str]  # good, bad, phenomenon, rationale

# Place or object, with the particle that the verb asks for, one that it does not allow, and the verb.
PARTICLES = (
    ("山道", "を", "に", "歩く"),
    ("橋", "を", "に", "渡る"),
    ("角", "を", "に", "曲がる"),
    ("廊下", "を", "に", "走り抜ける"),
    ("大学", "を", "に", "卒業する"),
    ("家", "を", "に", "飛び出す"),
    ("バス", "を", "に", "降りる"),
    ("列車", "に", "を", "乗り込む"),
    ("港", "に", "を", "到着する"),
    ("友人", "に", "を", "会う"),
    ("先輩", "に", "を", "相談する"),
    ("試験", "に", "を", "合格する"),
    ("規則", "に", "を", "従う"),
    ("壁", "に", "を", "ぶつかる"),
    ("図書館", "で", "に", "勉強する"),
    ("工場", "で", "に", "働く"),
    ("食堂", "で", "に", "食べる"),
    ("運動場", "で", "に", "走り回る"),
    ("棚", "に", "で", "載せる"),
    ("東京", "に", "で", "住む"),
    ("椅子", "に", "で", "腰掛ける"),
    ("机", "に", "で", "置く"),
    ("足音", "が", "を", "聞こえる"),
    ("水", "が", "を", "足りない"),
    ("海", "が", "を", "見える"),
    ("英語", "が", "を", "得意だ"),
    ("新聞", "を", "が", "配る"),
    ("約束", "を", "が", "守る"),
    ("部品", "を", "が", "並べる"),
    ("火", "を", "が", "消す"),
)
BEFORE = ("うちの妹は", "きのう会った人も", "みんなが言うには、彼は")

# Counters, how their things exist, and things that they count. Each counter is the wrong one for the things of the
# next row, and never acceptable there.
COUNTERS = (
    ("本", "ある", ("鉛筆", "傘", "ネクタイ")),
    ("枚", "ある", ("切符", "座布団", "ハンカチ")),
    ("台", "ある", ("自転車", "冷蔵庫", "扇風機")),
    ("冊", "ある", ("辞書", "雑誌", "絵本")),
    ("匹", "いる", ("金魚", "子猫", "かぶと虫")),
    ("足", "ある", ("靴下", "長靴", "革靴")),
    ("着", "ある", ("背広", "作業服", "ドレス")),
    ("軒", "ある", ("空き家", "本屋", "農家")),
    ("通", "ある", ("手紙", "招待状", "封書")),
    ("頭", "いる", ("乳牛", "象", "馬")),
)
NUMBERS = ("三", "六", "八")
SEEN = (
    "{thing}を{number}{counter}だけ数えた",
    "そこには{thing}が{number}{counter}{exists}はずだ",
    "写真に{thing}が{number}{counter}写っている",
)


def joshi() -> Iterator[Pair]:
    for place, right, wrong, verb in PARTICLES:
        for before in BEFORE:
            yield (
                f"{before}{place}{right}{verb}。",
                f"{before}{place}{wrong}{verb}。",
                f"{right}と{wrong}",
                f"「{verb}」は「{place}{right}」をとる",
            )


def josuushi() -> Iterator[Pair]:
    for row, (counter, exists, things) in enumerate(COUNTERS):
        wrong = COUNTERS[row - 1][0]
        for i, (thing, number) in enumerate(zip(things, NUMBERS, strict=True)):
            for frame in (SEEN[i], SEEN[(i + 1) % 3]):
                good, bad = (
                    frame.format(thing=thing, number=number, counter=c, exists=exists) + "。" for c in (counter, wrong)
                )
                rationale = f"{thing}は「{counter}」で数え、「{wrong}」では数えない"
                yield good, bad, f"「{counter}」で数えるもの", rationale


def rows(suite: str) -> list[dict[str, str]]:
    """All pairs of a suite: by templates, then by hand."""
    composed = {"joshi": joshi, "josuushi": josuushi}[suite]()
    by_hand = [json.loads(line) for line in (DATA / "by-hand.jsonl").read_text(encoding="utf-8").splitlines()]
    hand = [(r["good"], r["bad"], r["phenomenon"], r["rationale"]) for r in by_hand if r["suite"] == suite]
    return [
        {"id": f"{suite}-{number:04}", "good": good, "bad": bad, "phenomenon": phenomenon, "rationale": rationale}
        for number, (good, bad, phenomenon, rationale) in enumerate([*composed, *hand], 1)
    ]


def main() -> None:
    for suite in ("joshi", "josuushi"):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(suite))
        (DATA / f"{suite}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
