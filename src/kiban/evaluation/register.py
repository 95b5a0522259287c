"""Whether an answer keeps the register that was asked for, by rules.

Three registers: `keigo`, to a customer; `plain`, as in a report (常体); `child`, to a child of seven or eight. Rules
see endings, set words, kanji and lengths: they tell a register that is kept from one that is not, not a good answer
from a bad one.
"""

import re
from collections.abc import Callable

# 学年別漢字配当表 of the course of study (2017), first and second year.
_YEAR_1 = (
    "一右雨円王音下火花貝学気九休玉金空月犬見五口校左三山子四糸字耳七車手十出女小上森人水正生青夕石赤千川先早草足村大男竹中虫町"
    "天田土二日入年白八百文木本名目立力林六"
)
_YEAR_2 = (
    "引羽雲園遠何科夏家歌画回会海絵外角楽活間丸岩顔汽記帰弓牛魚京強教近兄形計元言原戸古午後語工公広交光考行高黄合谷国黒今才細作算"
    "止市矢姉思紙寺自時室社弱首秋週春書少場色食心新親図数西声星晴切雪船線前組走多太体台地池知茶昼長鳥朝直通弟店点電刀冬当東答頭同"
    "道読内南肉馬売買麦半番父風分聞米歩母方北毎妹万明鳴毛門夜野友用曜来里理話"
)
EASY_KANJI = frozenset(_YEAR_1 + _YEAR_2)
LONGEST_FOR_CHILD = 45  # characters of a sentence

_POLITE = re.compile(
    r"(です|ます|ました|ません|でした|でしょう|ましょう|ください|下さい|ませ|まし|願います|致します)"
    r"(か|ね|よ|が|けれど|けれども|ので|から)*$"
)
_PLAIN = re.compile(r"(だ|た|る|う|く|す|つ|ぬ|む|ぐ|ぶ|い|か|ず|こと|もの|ため)$")
_CASUAL = re.compile(
    r"(だよ|だね|だぜ|だぞ|じゃん|じゃない[?？]|っす|ってば|かなあ?$|だろう?$|おれ|俺|僕|お前|おまえ|あたし|まじ|マジ|やばい"
    r"|めっちゃ|すげ|ちゃった|じゃった|笑$|www)"
)
_HONORIFIC = re.compile(
    r"(いたし|致し|ござい|申し上げ|申し訳|いただ|頂|くださ|下さ|おり(ます|まし)|存じ|伺|うかが|拝|恐れ入り|恐縮|承り|承知"
    r"|なさ(い|っ)|いらっしゃ|おっしゃ|召し上が|ご覧|お(.{1,6})に(な|なり)|(お|ご)[一-龠ぁ-ん]{1,6}(する|します|いたし|くださ|になり))"
)
_HEAVY = re.compile(r"(いたし|致し|ござい|申し上げ|存じ|伺い|うかがい|拝|恐れ入り|恐縮|承り|弊社|御社|貴社)")
_STIFF = re.compile(r"(である|であった|であろう|のだ|ものとする|とする|べきだ|せよ|ざるを得ない)$")
_GLOSSED = re.compile(r"[一-龠々]+[（(][ぁ-んー]+[)）]")
_KANJI = re.compile(r"[一-龠々]")
_JAPANESE = re.compile(r"[ぁ-んァ-ヶ一-龠]")


def sentences(text: str) -> list[str]:
    """Without their closing marks. What stands in quotation marks is not the speaker's, and is left out."""
    spoken = re.sub(r"「[^」]*」", "「」", text)
    parts = (part.strip(" \t\u3000」』）)…・~〜") for part in re.split(r"[。！？!?\n]+", spoken))
    return [part for part in parts if _JAPANESE.search(part)]


def _is_written(text: str, question: str) -> bool:
    """Something like Japanese: a sentence that is ended, a good part of it hiragana, and not the same over again."""
    letters = "".join(_JAPANESE.findall(text))
    hiragana = len(re.findall(r"[ぁ-ん]", letters))
    pairs = [letters[i : i + 2] for i in range(len(letters) - 1)]
    return (
        len(letters) >= 8
        and bool(re.search(r"[。！？!?]", text))
        and 0.3 <= hiragana / len(letters) <= 1.0
        and len(set(pairs)) >= 0.6 * len(pairs)
    )


def _is_no_echo(text: str, question: str) -> bool:
    """Neither the question given back, nor one sentence again and again."""
    found = sentences(text)
    return bool(found) and len(set(found)) == len(found) and text.strip() not in question


def _ends_politely(text: str, question: str) -> bool:
    found = sentences(text)
    return bool(found) and all(_POLITE.search(sentence) for sentence in found)


def _is_not_casual(text: str, question: str) -> bool:
    return not any(_CASUAL.search(sentence) for sentence in sentences(text))


def _is_honorific(text: str, question: str) -> bool:
    return bool(_HONORIFIC.search(text))


def _ends_plainly(text: str, question: str) -> bool:
    found = sentences(text)
    return bool(found) and all(_PLAIN.search(s) and not _POLITE.search(s) for s in found)


def _has_easy_kanji(text: str, question: str) -> bool:
    """Kanji of the first two years of school, or with their reading behind them."""
    return set(_KANJI.findall(_GLOSSED.sub("", text))) <= EASY_KANJI


def _has_short_sentences(text: str, question: str) -> bool:
    return all(len(sentence) <= LONGEST_FOR_CHILD for sentence in sentences(text))


def _is_not_heavy(text: str, question: str) -> bool:
    return not _HEAVY.search(text)


def _is_not_stiff(text: str, question: str) -> bool:
    return not any(_STIFF.search(sentence) for sentence in sentences(text))


Check = Callable[[str, str], bool]
_ALWAYS: dict[str, Check] = {"written": _is_written, "no_echo": _is_no_echo}
CHECKS: dict[str, dict[str, Check]] = {
    "keigo": {
        **_ALWAYS,
        "polite_endings": _ends_politely,
        "nothing_casual": _is_not_casual,
        "honorific_form": _is_honorific,
    },
    "plain": {**_ALWAYS, "plain_endings": _ends_plainly, "nothing_casual": _is_not_casual},
    "child": {
        **_ALWAYS,
        "easy_kanji": _has_easy_kanji,
        "short_sentences": _has_short_sentences,
        "nothing_heavy": _is_not_heavy,
        "nothing_stiff": _is_not_stiff,
    },
}


def failures(text: str, register: str, question: str = "") -> list[str]:
    """The checks of a register that an answer does not pass."""
    return [name for name, passes in CHECKS[register].items() if not passes(text, question)]
