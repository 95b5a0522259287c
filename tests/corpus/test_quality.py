from pathlib import Path

import pyarrow as pa
import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus.quality import Recipe, judge, load_recipe, recipe_file
from kiban.corpus.statistics import NAMES, statistics
from tests.corpus.building import sentences


def figures(text: str) -> dict[str, float]:
    return dict(zip(NAMES, statistics(pa.array([text]))[0].tolist(), strict=True))


def test_counts_and_shares() -> None:
    found = figures("漢字とカタカナ、123 abc。\n二行目……\n")
    assert found["characters"] == 23
    assert found["japanese_characters"] == 10
    assert found["japanese_share"] == pytest.approx(10 / 20)
    assert found["hiragana_share"] == pytest.approx(1 / 10)
    assert found["katakana_share"] == pytest.approx(4 / 10)
    assert found["kana_share"] == pytest.approx(5 / 10)
    assert found["digit_share"] == pytest.approx(3 / 20)
    assert found["lines"] == 2
    assert found["ellipsis_line_share"] == 0.5
    assert found["sentences"] == 2
    assert found["longest_sentence"] == 14


def test_lines_that_repeat() -> None:
    assert (
        figures("同じ行である\n同じ行である\n違う行である\n同じ行である\n短い\n短い\n")["duplicate_line_share"] == 0.5
    )


def test_ngrams_that_repeat() -> None:
    once = "いろはにほへとちりぬるをわかよたれそつねならむ"
    assert figures(once)["repeated_10gram_share"] == 0
    grams = [(once * 3)[i : i + 10] for i in range(3 * len(once) - 9)]
    assert figures(once * 3)["repeated_10gram_share"] == pytest.approx(1 - len(set(grams)) / len(grams))


def test_runs_and_broken_text() -> None:
    assert figures("あーーーーー！－－－－－－－－－－---------")["longest_run"] == 10
    assert figures("----------")["longest_run"] == 0
    assert figures("日本語の文章です。".encode().decode("cp932", errors="ignore"))["mojibake_share"] > 0.1
    assert figures("カフェの文章です。".encode().decode("latin-1"))["mojibake_share"] > 0.1
    assert figures("普通の文章です。±3°、2×3÷4、§1。")["mojibake_share"] == 0
    assert figures("カフェ「Le Café Français」で待ち合わせる。")["mojibake_share"] < 0.1


def test_the_empty_text_has_no_statistic_but_zero() -> None:
    assert set(figures("").values()) == {
        0.0,
    }


def test_a_batch_gives_what_each_text_gives_alone() -> None:
    texts = [*sentences(20), "", "短い", "短い\n" * 50]
    together = statistics(pa.array(texts))
    for text, row in zip(texts, together, strict=True):
        assert dict(zip(NAMES, row.tolist(), strict=True)) == figures(text)


def test_the_recipe_keeps_good_text_and_names_what_is_wrong() -> None:
    recipe = load_recipe(recipe_file("kiban", Path()))
    texts = {
        "no_text": "123-456",
        "mojibake": sentences(1)[0].encode().decode("cp932", errors="ignore"),
        "not_japanese": "English text with 日本語のようなものだけ in it, " + "and on and on it goes, " * 4,
        "few_kana": "東京都千代田区霞関大臣官房総務課長殿御中関係者各位" * 6,
        "many_katakana": "サーバー・データベース・ネットワーク・" * 8 + "の設定",
        "many_digits": "売上は" + "12345678 という " * 20 + "である、という表です。",
        "one_character_run": "あああ" + "ー" * 400 + "という声がした。" + "".join(sentences(9)),
        "repeated_lines": "毎日同じことを繰り返す。\n" * 30,
        "cut_off_lines": "".join(f"{text[:20]}...\n" for text in sentences(30)),
    }
    array = pa.array([*texts.values(), *sentences(5), "はい、わかりました。それでお願いします。"])
    verdicts = judge(recipe, statistics(array), [""] * len(array))
    assert {list(texts)[v.row]: v.reason for v in verdicts} == {reason: reason for reason in texts}
    assert all(v.detail.startswith(tuple(NAMES)) for v in verdicts)


def test_a_rule_does_not_hold_for_a_register_it_leaves_out() -> None:
    rule = {"reason": "r", "statistic": "katakana_share", "at_most": 0.5, "except_registers": ["literary"]}
    recipe = Recipe.model_validate({"rule": [rule]})
    found = statistics(pa.array(["アメニモマケズ", "アメニモマケズ"]))
    assert [v.row for v in judge(recipe, found, ["literary", ""])] == [1]


def test_mistakes_in_a_recipe_are_named(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="no recipe has that name .*kiban"):
        recipe_file("kibann", tmp_path)
    file = tmp_path / "own.toml"
    for content, expected in (
        ('[[rule]]\nreason = "x"\nstatistic = "beauty"', "rule 1: no statistic 'beauty'"),
        ('[[rule]]\nreason = "x"\nstatistic = "lines"\nat_leest = 1', r"rule\.1\.at_leest"),
        ("[[rule]", "not TOML"),
    ):
        file.write_text(content)
        with pytest.raises(KibanError, match=expected):
            load_recipe(recipe_file("own.toml", tmp_path))
