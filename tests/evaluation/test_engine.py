"""From answers to metrics, what may be said of them, and what is remembered."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.evaluation import engine, matching, run, statistics, suite
from kiban.evaluation.answers import Answers
from kiban.evaluation.models import LocalModel, locate
from kiban.evaluation.suite import Item, Suite
from tests.evaluation import models

TEXT = "箱を運ぶ前に部品を数える。工具を並べる前に書類を調べる。"
QUIET = Progress(quiet=True)


def of_rule(rule: str, **changes: Any) -> Suite:
    return Suite(name="made", measures="m", rule=rule, licence="l", source="s", **changes)  # type: ignore[arg-type]


def nothing(n: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.exported(tmp_path_factory.mktemp("models") / "one")


@pytest.fixture
def answers(folder: Path) -> Answers:
    return models.answers(folder)


def test_accuracy_counts_the_right_choice(answers: Answers) -> None:
    items = [
        Item(str(i), "", ("箱を運ぶ", "箱を運ぶ箱を運ぶ箱を運ぶ"), i % 2, "even" if i % 2 else "odd") for i in range(8)
    ]
    result = engine.score(of_rule("pairs"), items, answers, nothing)
    assert result.metrics["accuracy"].value == 0.5 and result.metrics["accuracy"].n == 8
    assert {result.by["even"].value, result.by["odd"].value} == {0.0, 1.0}
    low, high = result.metrics["accuracy"].interval or (0, 0)
    assert 0.2 < low < 0.5 < high < 0.8
    assert "accuracy_unconditional" not in result.metrics


def test_the_three_ways_to_choose(answers: Answers) -> None:
    """By hand from the log-likelihoods: as they are, a character, and less what the choice has without the prompt."""
    items = [Item(str(i), TEXT[:i] + "\n", ("数える", "工具を並べる", "書"), i % 3) for i in range(2, 14)]
    result = engine.score(of_rule("choice"), items, answers, nothing)
    scorer = models.scorer()
    right = {"accuracy": 0, "accuracy_per_character": 0, "accuracy_unconditional": 0}
    for item in items:
        nats = [scorer.log_likelihoods([(item.prompt, choice)])[0][0] for choice in item.choices]
        without = [scorer.log_likelihoods([("", "\n" + choice)])[0][0] for choice in item.choices]
        right["accuracy"] += int(np.argmax(nats)) == item.answer
        right["accuracy_per_character"] += (
            int(np.argmax([n / len(c) for n, c in zip(nats, item.choices, strict=True)])) == item.answer
        )
        right["accuracy_unconditional"] += int(np.argmax(np.subtract(nats, without))) == item.answer
    assert {name: result.metrics[name].value * 12 for name in right} == pytest.approx(right)
    by_label = [np.mean([row["score"] for row in result.rows if row["answer"] == label]) for label in range(3)]
    assert result.metrics["balanced_accuracy"].value == pytest.approx(float(np.mean(by_label)))


def test_a_scale_is_the_mean_of_its_numbers(answers: Answers) -> None:
    items = [Item(str(i), TEXT[i : i + 9], ("0", "1", "2"), value=float(i % 5)) for i in range(12)]
    result = engine.score(of_rule("scale", choices=("0", "1", "2")), items, answers, nothing)
    nats = np.array(result.rows[3]["log_likelihoods"])
    p = np.exp(nats) / np.exp(nats).sum()
    assert result.rows[3]["score"] == pytest.approx(p[1] + 2 * p[2])
    values = [row["value"] for row in result.rows]
    assert result.metrics["spearman"].value == pytest.approx(
        statistics.spearman([row["score"] for row in result.rows], values)
    )


def test_what_is_written_is_matched(answers: Answers) -> None:
    prompts = [TEXT[:3], TEXT[14:20]]
    written = answers.generate(prompts, 6, (), nothing)
    items = [
        Item("0", prompts[0] + "\n", references=(f" {written[0].strip()}\n", "書類")),
        Item("1", prompts[1], references=("書類",)),
    ]
    result = engine.score(of_rule("generate", max_tokens=6), items, answers, nothing)
    assert [row["score"] for row in result.rows] == [1.0, 0.0]
    assert result.metrics["exact_match"].value == 0.5 and result.metrics["f1"].value < 1


@pytest.mark.parametrize(
    ("text", "number"),
    [("答えは1,234個です。", "1234"), ("3と-5", "-5"), ("2.0 円", "2"), ("2.5", ""), ("なし", ""), ("1.2.3", "")],
)
def test_the_last_number_counts(text: str, number: str) -> None:
    assert matching.last_number(text) == number


def test_f1_is_over_characters() -> None:
    assert matching.character_f1("「東京都」。", "東京都") == 1.0
    assert matching.character_f1("東京", "東京都") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert matching.character_f1("大阪", "東京都") == 0.0
    assert matching.normalised("　Ａｂ Ｃ。") == "abc"


def test_bits_per_character_weighs_by_length(answers: Answers) -> None:
    items = [Item("a", TEXT * 12, by="x"), Item("b", "書類", by="y")]
    result = engine.score(of_rule("text"), items, answers, nothing)
    a, b = models.scorer().texts([item.prompt for item in items])
    both = -(a.log_likelihood + b.log_likelihood) / math.log(2) / (a.characters + b.characters)
    assert result.metrics["all"].value == pytest.approx(both)
    assert result.metrics["x"].value == pytest.approx(a.bits_per_character)


# Registers


@pytest.mark.parametrize(
    ("register", "good", "bad"),
    [
        (
            "keigo",
            "恐れ入りますが、田中はただいま席を外しております。戻り次第、こちらからお電話を差し上げます。",
            "田中は今いないよ。あとで電話するね。",
        ),
        ("keigo", "営業時間は午前九時から午後六時まででございます。", "営業時間は午前九時から午後六時までです。"),
        (
            "keigo",
            "はい、日にちの変更を承ります。ご希望の日をお知らせください。",
            "はい、日にちの変更を承ります。いつがいい？",
        ),
        (
            "plain",
            "空が青く見えるのは、光が空気の粒で散らばるからである。青い光ほど強く散らばる。",
            "空が青く見えるのは、光が空気の粒で散らばるからです。",
        ),
        ("plain", "部品の数が足りない。組み立ては明日に延ばすことにした。", "部品の数が足りないんだよ。明日にするね。"),
        (
            "child",
            "空が青いのは、太ようの光が空気にぶつかるからだよ。青い光は、よくちらばるんだ。",
            "光の散乱によって青色の波長が強く散乱されるためである。",
        ),
        (
            "child",
            "はをみがくと、ばいきんがいなくなるよ。だから、まい日みがこうね。",
            "お問い合わせいただき、誠にありがとうございます。",
        ),
        (
            "child",
            "水は、こおると少し大きくなります。だから、同じ大きさの水よりかるくて、うくのです。",
            "水は凍結する際に体積が増加し密度が低下するので、同じ体積の水と比べると軽くなり、結果として浮くことになります。",
        ),
    ],
)
def test_rules_tell_a_register_that_is_kept_from_one_that_is_not(register: str, good: str, bad: str) -> None:
    from kiban.evaluation.register import failures

    assert failures(good, register) == []
    assert failures(bad, register) != []


@pytest.mark.parametrize("register", ["keigo", "plain", "child"])
@pytest.mark.parametrize(
    "text", ["", "です。", "です。です。です。です。です。です。", "価格価格価格価格価格価格。", "Yes, sir."]
)
def test_what_is_no_answer_keeps_no_register(register: str, text: str) -> None:
    from kiban.evaluation.register import failures

    assert "written" in failures(text, register)


def test_an_answer_is_no_echo() -> None:
    from kiban.evaluation.register import failures

    question = "恐れ入りますが、営業時間を教えていただけますでしょうか。"
    assert "no_echo" in failures(question, "keigo", f"質問：{question}\n答え：")


def test_registers_are_asked_of_the_same_questions(answers: Answers) -> None:
    found = suite.load("register")
    path = found.path(None)
    assert path is not None
    items = suite.items(found, path)
    by_register: dict[str, set[str]] = {}
    for item in items:
        by_register.setdefault(item.by, set()).add(item.content)
    assert set(by_register) == {"keigo", "plain", "child"} and len({frozenset(q) for q in by_register.values()}) == 1
    result = engine.score(found.model_copy(update={"max_tokens": 4}), items[:4], answers, nothing)
    assert result.metrics["kept"].value == 0.0  # four tokens are no answer
    assert {"keigo_polite_endings", "keigo_written"} <= set(result.metrics)


# Figures about figures


def test_spearman_is_that_of_ranks() -> None:
    assert statistics.spearman([1, 2, 3, 4], [10, 100, 1000, 5000]) == pytest.approx(1)
    assert statistics.spearman([1, 2, 2, 4], [4, 2, 2, 1]) == pytest.approx(-1)
    assert statistics.spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)
    assert statistics.spearman([1, 1, 1], [1, 2, 3]) == 0.0
    low, high = statistics.spearman_interval(0.5, 100)
    assert low == pytest.approx(0.326, abs=0.01) and high == pytest.approx(0.64, abs=0.01)


def test_mcnemar_is_exact() -> None:
    assert statistics.mcnemar(0, 0) == 1.0
    assert statistics.mcnemar(0, 6) == pytest.approx(2 / 64)
    assert statistics.mcnemar(3, 7) == pytest.approx(2 * sum(math.comb(10, i) for i in range(4)) / 1024)


def test_the_test_finds_what_is_there_and_seldom_what_is_not() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        base = rng.random(200)
        first, same, better = (rng.random(200) < p for p in (0.5, 0.5, 0.9 * (base > 0.2)))
        arrays = [np.array(hits, float)[:, None] for hits in (first, same, better)]
        mean: Callable[[np.ndarray], float] = lambda table: float(table[:, 0].mean())  # noqa: E731
        none = statistics.difference(arrays[0], arrays[1], mean, 0)
        found += none.p < 0.05
        there = statistics.difference(arrays[0], arrays[2], mean, 0)
        assert there.p < 0.05 and there.interval[0] > 0
    assert found <= 5


def test_holm_adjusts_for_the_number_of_tests() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]


def test_kappa_is_agreement_beyond_chance() -> None:
    assert statistics.kappa([True, False, True], [True, False, True]) == 1.0
    assert statistics.kappa([True, True, False, False], [True, False, True, False]) == 0.0


# Memory and processes


class Counting:
    """A model whose pieces of work are counted."""

    name, scores, at_once = "counting", True, 4
    notes: list[str] = []

    def __init__(self, model: LocalModel, most: int | None = None) -> None:
        self.model, self.digest, self.most = model, model.digest, most
        self.pieces = 0

    def work(self, method: str, pieces: Sequence[Sequence[Any]], *rest: Any) -> Iterator[tuple[int, list[Any]]]:
        for number, found in self.model.work(method, pieces, *rest):
            if self.pieces == self.most:
                raise KeyboardInterrupt
            self.pieces += 1
            yield number, found


def test_what_was_answered_is_not_asked_again(folder: Path, tmp_path: Path) -> None:
    local = LocalModel(locate(folder))
    items = [Item(str(i), TEXT[: i + 2], ("数える", "並べる"), 0) for i in range(16)]
    whole = engine.score(of_rule("choice"), items, Answers(local, None), nothing)
    interrupted = Counting(local, most=2)
    with pytest.raises(KeyboardInterrupt):
        engine.score(of_rule("choice"), items, Answers(interrupted, tmp_path / "cache.sqlite"), nothing)
    rest = Counting(local)
    advanced: list[int] = []
    resumed = engine.score(of_rule("choice"), items, Answers(rest, tmp_path / "cache.sqlite"), advanced.append)
    assert rest.pieces == 2 and sum(advanced) == 16
    assert resumed.metrics == whole.metrics
    for a, b in zip(resumed.rows, whole.rows, strict=True):
        assert a["log_likelihoods"] == pytest.approx(b["log_likelihoods"], abs=1e-4)
    again = Counting(local)
    engine.score(of_rule("choice"), items, Answers(again, tmp_path / "cache.sqlite"), nothing)
    assert again.pieces == 0


def test_another_model_is_asked_anew(folder: Path, tmp_path: Path) -> None:
    other = models.exported(tmp_path / "other", seed=1)
    cache = tmp_path / "cache.sqlite"
    first, second = (
        models.answers(where, cache).log_likelihoods([[("箱を", "運ぶ")]], nothing)[0][0][0]
        for where in (folder, other)
    )
    assert first != second
    with pytest.raises(KibanError, match="cannot be used as a cache"):
        (tmp_path / "broken").write_text("no database, but long enough that it could be taken for one" * 40)
        models.answers(folder, tmp_path / "broken")


def test_any_number_of_processes_gives_the_same(folder: Path) -> None:
    items = [Item(str(i), TEXT[: i % 20], ("数える", "並べる"), i % 2) for i in range(150)]
    one = engine.score(of_rule("choice"), items, models.answers(folder), nothing)
    two = engine.score(of_rule("choice"), items, models.answers(folder, processes=2), nothing)
    assert one.metrics == two.metrics
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["log_likelihoods"] == pytest.approx(b["log_likelihoods"], abs=1e-5)


# Whole runs


def plan(tmp_path: Path, **changes: Any) -> run.Plan:
    rows = [
        {
            "q_id": i,
            "question": f"{TEXT[: i % 12 + 2]}{i}",
            **{f"choice{k}": "箱部工書円"[k] for k in range(5)},
            "label": i % 5,
        }
        for i in range(40)
    ]
    (tmp_path / "set.json").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return run.Plan(("jcommonsenseqa",), paths={"jcommonsenseqa": tmp_path / "set.json"}, **changes)


def test_prompts_seeds_and_examples_are_averaged(answers: Answers, tmp_path: Path) -> None:
    found = run.evaluate(answers, plan(tmp_path, prompts=("default", "listed"), shots=1, seeds=(0, 1)), QUIET)
    result = found.results["suites"]["jcommonsenseqa"]
    assert [(way["prompt"], way["shots"], way["seed"]) for way in result["ways"]] == [
        ("default", 1, 0),
        ("default", 1, 1),
        ("listed", 1, 0),
        ("listed", 1, 1),
    ]
    values = [way["metrics"]["accuracy"]["value"] for way in result["ways"]]
    metric = found.metrics["evaluation.jcommonsenseqa.accuracy"]
    assert metric.value == pytest.approx(float(np.mean(values)))
    assert result["spread"]["accuracy"] == [min(values), max(values)]
    assert metric.interval is not None and metric.interval[0] <= metric.value <= metric.interval[1]
    assert metric.n == 40 - suite.POOL and len(found.rows) == 4 * 24


def test_two_models_are_compared_on_the_same_items(answers: Answers, tmp_path: Path) -> None:
    other = models.answers(models.exported(tmp_path / "other", seed=5))
    first, second = (run.evaluate(a, plan(tmp_path), QUIET).rows for a in (answers, other))
    found = run.compare(first, second)["jcommonsenseqa"]
    assert found["n"] == 40 and found["left_out"] == 0
    means = [np.mean([row["score"] for row in rows]) for rows in (first, second)]
    assert found["difference"] == pytest.approx(means[1] - means[0])
    only = [
        sum(a["score"] > b["score"] for a, b in zip(x, y, strict=True)) for x, y in ((first, second), (second, first))
    ]
    assert found["p"] == pytest.approx(statistics.mcnemar(*only))
    assert run.compare(first, first)["jcommonsenseqa"]["p"] == 1.0
    assert run.compare(first, second[:30])["jcommonsenseqa"]["left_out"] == 10


def test_a_set_that_is_not_here_is_named(answers: Answers, tmp_path: Path) -> None:
    found = run.evaluate(answers, run.Plan(("keigo", "jnli", "bits-per-character"), limit=4), QUIET)
    assert "needs jglue/jnli-v1.3/valid-v1.3.json" in found.results["skipped"]["jnli"]
    assert "held-back documents" in found.results["skipped"]["bits-per-character"]
    with pytest.raises(KibanError, match="none of the suites can be run"):
        run.evaluate(answers, run.Plan(("jnli",)), QUIET)
    with pytest.raises(KibanError, match="is not there"):
        run.evaluate(answers, run.Plan(("jnli",), paths={"jnli": tmp_path / "nothing"}), QUIET)
