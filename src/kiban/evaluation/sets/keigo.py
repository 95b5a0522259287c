"""Minimal pairs of honorifics: composed where the language is regular, by hand where it is not.

Nearly all come in couples: what is right in one sentence or situation is wrong in the other, and the other way round.
So a form alone, its length and its frequency tell nothing; who speaks of whom to whom does.

`python -m kiban.evaluation.sets.keigo` writes data/keigo.jsonl from keigo-tables.txt and keigo-by-hand.txt.
"""

import json
from collections.abc import Iterator

from kiban.evaluation.sets.tables import DATA, Tables, read

Row = dict[str, str]

GUIDE = "敬語の指針（文化審議会答申、2007年）"
DIRECTION = GUIDE + "第2章第1の6、第2の1と2"
FAVOUR = GUIDE + "第2章第2の1と2"
SELF = GUIDE + "第2章第1の3と6"
POLITE = GUIDE + "第2章第1の3と4"
CLIENT = GUIDE + "第3章第2の2"
OUTSIDE = GUIDE + "第3章第3の2"
ABLE = GUIDE + "第2章第2の1、第3章第2の1"
DOUBLED = GUIDE + "第2章第2の6（2）"
PREFIX = GUIDE + "第2章第2の1と6（1）"
TERMS = GUIDE + "第2章第2の1から3"
STYLE = "hand（敬体と常体をそろえる、文章作法上の慣行）"
NAMING = GUIDE + "第3章第3の2。語は国語辞典の一般の記述による"


def pair(id: str, good: str, bad: str, phenomenon: str, source: str, rationale: str, context: str = "") -> Row:
    return {
        "id": f"keigo-{id}",
        "context": context,
        "good": good,
        "bad": bad,
        "phenomenon": phenomenon,
        "source": source,
        "rationale": rationale,
    }


def couple(
    id: str,
    one: str,
    other: str,
    forms: tuple[str, str],
    phenomenon: str,
    source: str,
    reasons: tuple[str, str],
    contexts: tuple[str, str] = ("", ""),
) -> Iterator[Row]:
    """Two pairs: the first of `forms` is right in the frame `one`, the second in `other`. A frame has a {} for it."""
    for side, frame, (good, bad), reason, context in zip(
        "ab", (one, other), (forms, forms[::-1]), reasons, contexts, strict=True
    ):
        yield pair(id + side, frame.format(good), frame.format(bad), phenomenon, source, reason, context)


def acts(tables: Tables) -> Iterator[Row]:
    """Who acts on whom: three pairs of persons an act, in the past and the future by turns."""
    for number, (theirs, ours, respectful, humble) in enumerate(tables["acts"]):
        for turn in range(3):
            raised, own = tables["persons"][(number + 4 * turn + number // 10) % len(tables["persons"])]
            past, future = tables["times"][(number + 2 * turn) % len(tables["times"])]
            time, tail = (past, "ました。") if (number + turn) % 2 == 0 else (future, "ます。")
            yield from couple(
                f"acts-{number:02}-{turn}",
                f"{raised}は{time}、{theirs.format(O=own)}{{}}{tail}",
                f"{own}は{time}、{ours.format(R=raised)}{{}}{tail}",
                (respectful, humble),
                "尊敬語と謙譲語の向き",
                DIRECTION,
                (
                    f"動作をするのは高めるべき{raised}なので尊敬語「{respectful}ます」が合い、"
                    f"謙譲語「{humble}ます」では{own}のほうを高めてしまう。",
                    f"動作をするのは話し手の側の{own}なので謙譲語「{humble}ます」が合い、"
                    f"尊敬語「{respectful}ます」では自分の側を高めてしまう。",
                ),
            )


def favours(tables: Tables) -> Iterator[Row]:
    for number, (given, received) in enumerate(tables["favours"]):
        for turn in range(2):
            raised, own = tables["persons"][(3 * number + 5 * turn) % len(tables["persons"])]
            past = tables["times"][(number + turn) % len(tables["times"])][0]
            yield from couple(
                f"favours-{number:02}-{turn}",
                f"{raised}は{past}、{given.format(O=own)}{{}}ました。",
                f"{own}は{past}、{received.format(R=raised)}{{}}ました。",
                ("ください", "いただき"),
                "授受",
                FAVOUR,
                (
                    f"主語が恩恵を与える{raised}なので「くださる」が合い、「いただく」では与え手ともらい手が逆になる。",
                    f"主語が恩恵を受ける{own}なので「いただく」が合い、「くださる」では与え手ともらい手が逆になる。",
                ),
            )


def tasks(tables: Tables) -> Iterator[Row]:
    for number, (what, stem) in enumerate(tables["tasks"]):
        for turn in range(2):
            own, theirs = tables["doers"][(number + 2 * turn + number // 4) % len(tables["doers"])]
            yield from couple(
                f"tasks-{number:02}-{turn}",
                what.format(own) + f"{stem}{{}}。",
                what.format(theirs) + f"{stem}{{}}。",
                ("いたします", "ください"),
                "「お～いたす」と「お～ください」",
                CLIENT,
                (
                    f"「{own}」するのだから謙譲語「{stem}いたします」が合い、「ください」では相手への依頼になる。",
                    f"「{theirs}」するのだから「{stem}ください」と頼むのが合い、謙譲語「いたします」は相手の動作に使えない。",
                ),
            )


def courteous(tables: Tables) -> Iterator[Row]:
    for number, (what, humble, respectful) in enumerate(tables["courteous"]):
        for turn in range(3):
            own, theirs = tables["sides"][(number + 2 * turn) % len(tables["sides"])]
            yield from couple(
                f"courteous-{number:02}-{turn}",
                f"{own}{what}{{}}。",
                f"{theirs}{what}{{}}。",
                (humble, respectful),
                "丁重語と尊敬語",
                SELF,
                (
                    f"「{own}」は自分の側なので丁重語「{humble}」が合い、尊敬語「{respectful}」では自分の側を高めてしまう。",
                    f"「{theirs}」は高めるべき人なので尊敬語「{respectful}」が合い、丁重語「{humble}」は相手の側に使えない。",
                ),
            )


def polite(tables: Tables) -> Iterator[Row]:
    """Things and persons: what is said of a thing is not said of a person who is raised."""
    for number, (thing, person) in enumerate(tables["arrivals"]):
        yield from couple(
            f"arrivals-{number:02}",
            f"{thing}{{}}。",
            f"{person}{{}}。",
            ("参ります", "いらっしゃいます"),
            "物と人",
            POLITE,
            (
                "来るのは人ではないので丁重に「参ります」と言い、尊敬語「いらっしゃいます」で高めることはできない。",
                "来るのは高めるべき人なので「いらっしゃいます」が合い、丁重語「参ります」では敬意を欠く。",
            ),
        )
    for number, (thing, person) in enumerate(tables["being"]):
        yield from couple(
            f"being-{number:02}",
            f"恐れ入りますが、{thing}{{}}か。",
            f"恐れ入りますが、{person}{{}}か。",
            ("でございます", "でいらっしゃいます"),
            "物と人",
            POLITE,
            (
                "物や場所のことなので丁寧に「でございます」と言い、尊敬語「でいらっしゃいます」は使えない。",
                "相手その人に尋ねるのだから「でいらっしゃいます」が合い、「でございます」では敬意を欠く。",
            ),
        )
    for number, (thing, person) in enumerate(tables["existing"]):
        yield from couple(
            f"existing-{number:02}",
            f"{thing}{{}}。",
            f"{person}{{}}。",
            ("ございます", "いらっしゃいます"),
            "物と人",
            POLITE,
            (
                "物や場所があるというのだから「ございます」が合い、人に使う「いらっしゃいます」は使えない。",
                "高めるべき人がいるというのだから「いらっしゃいます」が合い、物に使う「ございます」は使えない。",
            ),
        )


def families(tables: Tables) -> Iterator[Row]:
    for number, (own, theirs) in enumerate(tables["kin"]):
        for turn in range(2):
            humble, respectful = tables["family life"][(number + 2 * turn) % len(tables["family life"])]
            situations = tables["families"][(number + turn + number // 4) % len(tables["families"])]
            yield from couple(
                f"kin-{number:02}-{turn}",
                "{}。",
                "{}。",
                (f"{own}は{humble}", f"{theirs}は{respectful}"),
                "ウチとソト（家族）",
                DIRECTION,
                (
                    f"自分の家族は外の人に対して高めないので「{own}」と言い、敬称や尊敬語は使わない。",
                    f"高めるべき人の家族なので「{theirs}」と言い、身内のように「{own}」とは呼ばない。",
                ),
                (f"（{situations[0]}）\n", f"（{situations[1]}）\n"),
            )


def houses(tables: Tables) -> Iterator[Row]:
    """Both words in one sentence: the bad one has them the other way round."""
    for number, (own, theirs) in enumerate(tables["houses"]):
        for turn, [frame] in enumerate(tables["house frames"]):
            yield pair(
                f"house-{number:02}-{turn}",
                frame.format(own, theirs),
                frame.format(theirs, own),
                "自社と相手の会社",
                NAMING,
                f"自分の側は「{own}」、相手の側は「{theirs}」であり、入れ替えると誰が誰に述べるのかが逆になる。",
            )


def at_work(tables: Tables) -> Iterator[Row]:
    for number, (humble, respectful) in enumerate(tables["at work"]):
        for turn in range(4):
            post, name = tables["offices"][(number + 2 * turn + number // 8) % len(tables["offices"])]
            [outside], [inside] = (tables[key][(turn + number) % 4] for key in ("to outsiders", "to insiders"))
            forms = (f"{post}の{name}は、{humble}", f"{name}{post}は、{respectful}")
            yield from couple(
                f"work-{number:02}-{turn}",
                "{}。",
                "{}。",
                forms,
                "ウチとソト（会社）",
                OUTSIDE,
                (
                    f"社外の人に対しては自社の{post}もウチの人なので、「{name}{post}」と呼んで高めることはしない。",
                    f"社内では{post}は高めるべき人なので「{name}{post}」と呼び、呼び捨てや丁重語で低めることはしない。",
                ),
                (f"（{outside.format('自社の' + post)}）\n", f"（{inside.format(post)}）\n"),
            )


def potential(tables: Tables) -> Iterator[Row]:
    for number, (theirs, ours, respectful, humble) in enumerate(tables["potential"]):
        yield from couple(
            f"potential-{number:02}",
            f"{theirs}{{}}。",
            f"{ours}{{}}。",
            (respectful, humble),
            "可能の形",
            ABLE,
            (
                f"高めるべき人にできることなので尊敬語の可能形「{respectful}」が合い、「{humble}」は謙譲語の可能形である。",
                f"自分の側が人のためにできることなので謙譲語の可能形「{humble}」が合い、「{respectful}」は尊敬語である。",
            ),
        )
    for number, (what, good, bad) in enumerate(tables["able"]):
        yield pair(
            f"able-{number:02}",
            f"{what}{good}。",
            f"{what}{bad}。",
            "可能の形",
            ABLE,
            f"相手にできるかどうかなので尊敬語の可能形「{good}」が合い、「{bad}」は謙譲語の可能形なので使えない。",
        )


def doubled(tables: Tables) -> Iterator[Row]:
    for number, (what, good, bad) in enumerate(tables["doubled"]):
        yield pair(
            f"doubled-{number:02}",
            f"{what}{good}。",
            f"{what}{bad}。",
            "二重敬語",
            DOUBLED,
            f"「{good}」だけで尊敬語になっており、「{bad}」は尊敬の「れる・られる」を重ねている。",
        )


def terms(tables: Tables) -> Iterator[Row]:
    for number, (plain, respectful, humble) in enumerate(tables["terms"]):
        yield from couple(
            f"terms-{number:02}",
            f"「{plain}」の尊敬語は「{{}}」である。",
            f"「{plain}」の謙譲語は「{{}}」である。",
            (respectful, humble),
            "敬語の種類",
            TERMS,
            (
                f"「{respectful}」は動作をする人を高める尊敬語、「{humble}」は自分の側を低める謙譲語である。",
                f"「{humble}」は自分の側を低める謙譲語、「{respectful}」は動作をする人を高める尊敬語である。",
            ),
        )


def prefixes(tables: Tables) -> Iterator[Row]:
    for number, (native, chinese, frame) in enumerate(tables["prefixes"]):
        for side, word, good, bad in (("a", native, "お", "ご"), ("b", chinese, "ご", "お")):
            yield pair(
                f"prefix-{number:02}{side}",
                frame.format(good + word),
                frame.format(bad + word),
                "「お」と「ご」",
                PREFIX,
                f"「{word}」には「{good}」が付き、「{bad}{word}」とは言わない。",
            )


POLITE_TALK = "（あまり親しくない人どうしが、丁寧に話している）\n「{}」\n"
CASUAL_TALK = "（親しい友人どうしが、くだけた調子で話している）\n「{}」\n"


def register(tables: Tables) -> Iterator[Row]:
    for number, (asked, answer, asked_plainly, answer_plainly) in enumerate(tables["talk"]):
        yield from couple(
            f"talk-{number:02}",
            "「{}」",
            "「{}」",
            (answer, answer_plainly),
            "会話の文体",
            STYLE,
            (
                "相手が丁寧に話しかけているので丁寧な答えが合い、くだけた答えでは調子がそろわない。",
                "友人どうしのくだけた会話なのでくだけた答えが合い、丁寧な答えではよそよそしい。",
            ),
            (POLITE_TALK.format(asked), CASUAL_TALK.format(asked_plainly)),
        )
    for number, (first, plain, first_politely, polite_form) in enumerate(tables["prose"]):
        yield from couple(
            f"prose-{number:02}",
            "{}",
            "{}",
            (plain, polite_form),
            "文章の文体",
            STYLE,
            (
                "前の文が常体なので後の文も常体でそろえ、敬体は混ぜない。",
                "前の文が敬体なので後の文も敬体でそろえ、常体は混ぜない。",
            ),
            (first, first_politely),
        )


def by_hand() -> Iterator[Row]:
    """Sections `[couples: phenomenon: source]` and `[pairs: phenomenon: source]`. "／" is a line's end."""
    number = 0
    for head, rows in read("keigo-by-hand.txt").items():
        kind, phenomenon, source = (part.strip() for part in head.split(":", 2))
        source = source.replace("指針", GUIDE)
        for row in rows:
            number += 1
            if kind == "couples":
                one, first, other, second, *reasons = row
                contexts = (_context(one), _context(other))
                forms = (first, second)
                yield from couple(
                    f"hand-{number:03}", "{}", "{}", forms, phenomenon, source, (reasons[0], reasons[1]), contexts
                )
            else:
                context, good, bad, reason = row
                yield pair(f"hand-{number:03}", good, bad, phenomenon, source, reason, _context(context))


def _context(text: str) -> str:
    text = text.replace("／", "\n")
    return text + "\n" if text and not text.endswith("：") else text


def rows() -> list[Row]:
    tables = read("keigo-tables.txt")
    parts = (
        acts,
        favours,
        tasks,
        courteous,
        polite,
        families,
        houses,
        at_work,
        potential,
        doubled,
        terms,
        prefixes,
        register,
    )
    return [row for part in parts for row in part(tables)] + list(by_hand())


def main() -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
    (DATA / "keigo.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
