import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus.demo_text import compose, passages
from kiban.corpus.quality import Recipe, figures, judge, lists, load_recipe, recipe_file
from kiban.corpus.statistics import NAMES, statistics
from kiban.corpus.words import automaton, count
from tests.corpus.building import sentences


def of(text: str) -> dict[str, float]:
    return {name: float(column[0]) for name, column in statistics(pa.array([text])).items()}


def test_counts_and_shares() -> None:
    found = of("漢字とカタカナ、123 abc。\n二行目……\n")
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
    assert of("同じ行である\n同じ行である\n違う行である\n同じ行である\n短い\n短い\n")["duplicate_line_share"] == 0.5


def test_ngrams_that_repeat() -> None:
    once = "いろはにほへとちりぬるをわかよたれそつねならむ"
    assert of(once)["repeated_10gram_share"] == 0
    grams = [(once * 3)[i : i + 10] for i in range(3 * len(once) - 9)]
    assert of(once * 3)["repeated_10gram_share"] == pytest.approx(1 - len(set(grams)) / len(grams))


def test_runs_and_broken_text() -> None:
    assert of("あーーーーー！－－－－－－－－－－---------")["longest_run"] == 10
    assert of("----------")["longest_run"] == 0
    assert of("日本語の文章です。".encode().decode("cp932", errors="ignore"))["mojibake_share"] > 0.1
    assert of("カフェの文章です。".encode().decode("latin-1"))["mojibake_share"] > 0.1
    assert of("普通の文章です。±3°、2×3÷4、§1。")["mojibake_share"] == 0
    assert of("カフェ「Le Café Français」で待ち合わせる。")["mojibake_share"] < 0.1


def test_the_empty_text_has_no_statistic_but_zero() -> None:
    assert {name: value for name, value in of("").items() if value} == {"hojichar.short_line_ratio": 1.0}


def test_a_batch_gives_what_each_text_gives_alone() -> None:
    texts = [*sentences(20), "", "短い", "短い\n" * 50]
    together = statistics(pa.array(texts))
    assert tuple(together) == NAMES
    for row, text in enumerate(texts):
        assert {name: float(column[row]) for name, column in together.items()} == of(text)


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
    verdicts = judge(recipe, figures(recipe, array), [""] * len(array))
    assert {list(texts)[v.row]: v.reason for v in verdicts} == {reason: reason for reason in texts}
    assert all(v.detail.startswith(tuple(NAMES)) for v in verdicts)


def test_a_rule_does_not_hold_for_a_register_it_leaves_out() -> None:
    rule = {"reason": "r", "statistic": "katakana_share", "at_most": 0.5, "except_registers": ["literary"]}
    recipe = Recipe.model_validate({"rule": [rule]})
    found = figures(recipe, pa.array(["アメニモマケズ", "アメニモマケズ"]))
    assert [v.row for v in judge(recipe, found, ["literary", ""])] == [1]


def counted(texts: list[str], words: list[str], alone: bool = False) -> list[list[int]]:
    return count(pa.array(texts), automaton(words, alone)).astype(int).tolist()


def test_words_are_found_leftmost_and_longest_and_none_twice() -> None:
    words = ["青", "青空", "空港", "港の", "b", "abc", "bc"]
    assert counted(["青空港", "青い空港の青", "abcb", "", "赤い星"], words) == [
        [1, 1, 2],  # 青空; 空港 overlaps it
        [3, 2, 4],  # 青, 空港, 青; 港の overlaps
        [2, 2, 4],  # abc, b
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_words_are_found_as_a_plain_search_finds_them() -> None:
    draw = random.Random(5)
    letters = "かきく空é🎈a"
    words = sorted({"".join(draw.choice(letters) for _ in range(draw.randrange(1, 5))) for _ in range(40)})
    texts = ["".join(draw.choice(letters + "。 ") for _ in range(60)) for _ in range(60)]
    pattern = re.compile("|".join(sorted(map(re.escape, words), key=len, reverse=True)))
    for text, (hits, kinds, characters) in zip(texts, counted(texts, words), strict=True):
        found = pattern.findall(text)
        assert (hits, kinds, characters) == (len(found), len(set(found)), sum(map(len, found)))


def test_words_in_katakana_may_be_asked_to_stand_alone() -> None:
    texts = ["アスパラガス", "アスという名", "リュックサックとサック", "ーアス", "アス"]
    assert [hits for hits, _, _ in counted(texts, ["アス", "サック"], alone=True)] == [0, 1, 1, 0, 1]
    assert [hits for hits, _, _ in counted(texts, ["アス", "サック"])] == [1, 1, 2, 1, 1]


def test_a_recipe_counts_words_and_blocks_hosts(tmp_path: Path) -> None:
    (tmp_path / "ng.txt").write_text("# 見本\n禁句\n\n禁止語\n", encoding="utf-8")
    (tmp_path / "hosts.txt").write_text("bad.example.jp\n*.worse.jp\n", encoding="utf-8")
    (tmp_path / "own.toml").write_text(
        """
        [hosts]
        domains = ["jp", "org"]
        blocked = "hosts.txt"
        [[words]]
        name = "ng"
        file = "ng.txt"
        [[rule]]
        reason = "words"
        statistic = "words.ng.share"
        below = 0.5
        [[rule]]
        reason = "kinds"
        statistic = "words.ng.kinds"
        at_most = 1
        """
    )
    recipe = load_recipe(tmp_path / "own.toml")
    assert {path.name for path in lists(recipe)} == {"ng.txt", "hosts.txt"}
    texts = [
        "禁句だ",
        "禁句を言わない",
        "これは禁句と禁止語であると言ってよいだろう",
        "平和な文",
        "平和な文",
        "平和な文",
        "平和な文",
    ]
    uris = [
        "a.txt",
        "b.txt",
        "c.txt",
        "https://www.bad.example.jp/a",
        "http://worse.jp:8080/",
        "https://example.com/",
        "https://notbad.example.jp/",
    ]
    verdicts = judge(recipe, figures(recipe, pa.array(texts)), [""] * 7, uris)
    assert {v.row: v.reason for v in verdicts} == {
        0: "words",
        2: "kinds",
        3: "blocked_host",
        4: "blocked_host",
        5: "other_domain",
    }


@pytest.mark.parametrize("name", ["swallow-v1", "llm-jp-v1", "llm-jp-v1-strict", "fineweb2-jpn", "hojichar", "uzushio"])
def test_published_recipes_keep_prose_and_drop_noise(name: str) -> None:
    recipe = load_recipe(recipe_file(name, Path()))
    prose = "\n".join([passage.text for passage in passages() if passage.register == "polite"][:8])
    texts = [prose, "ログイン\n" * 200, "English only, and nothing else. " * 40]
    verdicts = judge(recipe, figures(recipe, pa.array(texts)), [""] * 3, ["a"] * 3)
    assert [v.row for v in verdicts] == [1, 2], verdicts


def test_mistakes_in_a_recipe_are_named(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="no recipe has that name .*kiban"):
        recipe_file("kibann", tmp_path)
    file = tmp_path / "own.toml"
    (tmp_path / "empty.txt").write_text("# nothing\n")
    words = "[[words]]\nname = 'ng'\n"
    rule = "[[rule]]\nreason = 'x'\nstatistic = 'words.ng.hits'\nat_most = 1"
    for content, expected in (
        ('[[rule]]\nreason = "x"\nstatistic = "beauty"\nat_most = 1', "rule 1: no statistic 'beauty'"),
        ('[[rule]]\nreason = "x"\nstatistic = "lines"\nat_leest = 1', r"rule\.1\.at_leest"),
        ("[[rule]", "not TOML"),
        ('[[rule]]\nreason = "x"\nstatistic = "lines"', "a rule without bounds drops nothing"),
        (f"{words}file = 'empty.txt'\n{words}file = 'empty.txt'\n{rule}", "two lists have the name 'ng'"),
        (words + "file = 'none.txt'\n" + rule, r"list 'none.txt' is not there"),
        (words + "file = 'empty.txt'\n" + rule, "a list with nothing in it"),
        (
            words + "file = 'empty.txt'\n[[rule]]\nreason = 'x'\nstatistic = 'lines'\nat_most = 1",
            "no rule asks for the words 'ng'",
        ),
    ):
        file.write_text(content)
        with pytest.raises(KibanError, match=expected):
            load_recipe(recipe_file("own.toml", tmp_path))


def test_the_recipe_of_hojichar_judges_like_its_own_filters() -> None:
    filters = pytest.importorskip("hojichar.filters.document_filters")
    document = pytest.importorskip("hojichar").Document
    own = {
        "not_japanese": filters.AcceptJapanese(),
        "rare_kuten": filters.DiscardRareKuten(),
        "adult": filters.DiscardAdultContentJa(),
        "discrimination": filters.DiscardDiscriminationContentJa(),
        "violence": filters.DiscardViolenceContentJa(),
        "bulletin_board": filters.DiscardBBSComments(),
        "advertisement": filters.DiscardAds(),
        "repetition": filters.CharRepetitionRatioFilter(),
        "one_character_run": filters.SingleCharacterRepetitionFilter(),
        "cut_off_lines": filters.DiscardTooManyEndingEllipsis(),
        "short_lines": filters.DiscardTooShortLines(),
    }
    texts = [record["text"] for record in compose(0.3, 5)] + [
        "あいう...\n" * 30,
        "2024-01-02 投稿 (月) 質問 第12話 " * 5,
        "a" * 60 + "あ",
        "お問い合わせください。営業時間はこちら。よくある質問。" * 6,
        "リュックサックとアスパラガスの死体遺棄。",
    ]
    recipe = load_recipe(recipe_file("hojichar", Path()))
    assert [rule.reason for rule in recipe.rule] == list(own)
    scores = figures(recipe, pa.array(texts))
    for rule in recipe.rule:
        dropped = {v.row for v in judge(recipe.model_copy(update={"rule": (rule,)}), scores, [""] * len(texts))}
        assert dropped == {row for row, text in enumerate(texts) if own[rule.reason].apply(document(text)).is_rejected}


def test_lists_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hojichar", None)
    with pytest.raises(KibanError, match="package hojichar, which is not installed; pip install"):
        load_recipe(recipe_file("hojichar", Path()))


def test_the_recipe_in_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "corpus-recipes.md").read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_text(page.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    for name in ("ng.txt", "hosts.txt"):
        (tmp_path / name).write_text("禁句\n", encoding="utf-8")
    assert len(load_recipe(tmp_path / "own.toml").rule) == 2
    names = re.findall(r"^\| `([a-z0-9-]+)`(?:, `([a-z0-9-]+)`)? \|", page, re.MULTILINE)
    shipped = {path.stem for path in recipe_file("kiban", Path()).parent.glob("*.toml")}
    assert {name for pair in names for name in pair if name} == shipped
