"""Scores against plain sums over logits, and suites against what their files say."""

import json
import math
from pathlib import Path

import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.evaluation import engine, scoring, suite
from kiban.evaluation.scoring import Scorer
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer
from tests.training import tiny

TEXT = "箱を運ぶ前に部品を数える。工具を並べる前に書類を調べる。" * 12


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    tokenizer = Tokenizer.train(tiny.texts(), tiny.VOCABULARY)
    model = Transformer(tiny.config(initializer_range=0.2))  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(0))
    return Scorer(model, tokenizer)


def plain(scorer: Scorer, ids: list[int]) -> list[float]:
    """log p of each token after the first, from one forward pass."""
    with torch.no_grad():
        log_probs = scorer.model.logits(scorer.model(torch.tensor([ids[:-1]])))[0].log_softmax(-1)
    return [float(row[token]) for row, token in zip(log_probs, ids[1:], strict=True)]


def test_a_short_text_is_one_forward_pass(scorer: Scorer) -> None:
    [score] = scorer.texts([TEXT[:20]])
    ids = [scorer.words.bos_id, *scorer.words.encode(TEXT[:20])]
    assert score.tokens == len(ids) - 1 and score.characters == 20
    assert score.log_likelihood == pytest.approx(sum(plain(scorer, ids)), rel=1e-5)
    assert score.bits_per_character == pytest.approx(-score.log_likelihood / math.log(2) / 20)


def test_a_long_text_goes_by_windows_with_half_a_context_of_stride(scorer: Scorer) -> None:
    ids = [scorer.words.bos_id, *scorer.words.encode(TEXT)]
    context = scorer.context
    assert len(ids) > 3 * context
    expected = sum(plain(scorer, ids[:context]))
    for start in range(context // 2, len(ids), context // 2):
        stop = min(start + context, len(ids))
        fresh = stop - min(start + context // 2, stop)
        expected += sum(plain(scorer, ids[start:stop])[-fresh:]) if fresh else 0.0
        if stop == len(ids):
            break
    [score] = scorer.texts([TEXT])
    assert score.tokens == len(ids) - 1
    assert score.log_likelihood == pytest.approx(expected, rel=1e-5)


def test_a_continuation_is_scored_after_its_context(scorer: Scorer) -> None:
    [(nats, count)] = scorer.log_likelihoods([("箱を運ぶ前に", "部品を数える")])
    ids = [scorer.words.bos_id, *scorer.words.encode("箱を運ぶ前に部品を数える")]
    assert nats == pytest.approx(sum(plain(scorer, ids)[-count:]), rel=1e-5)
    assert 0 < count < len(ids)
    [(all_nats, all_count)] = scorer.log_likelihoods([("", "箱を運ぶ前に部品を数える")])
    assert all_count == len(ids) - 1 and all_nats < nats


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_scores_do_not_depend_on_the_batch(scorer: Scorer, batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("箱を", TEXT[:n]) for n in range(1, 40, 3)]
    expected = [scorer.log_likelihoods([pair])[0] for pair in pairs]
    monkeypatch.setattr(scoring, "BATCH_TOKENS", batch_tokens)
    found = scorer.log_likelihoods(pairs)
    assert [n for _, n in found] == [n for _, n in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=1e-3)


def test_transformers_gives_the_same_log_likelihood(scorer: Scorer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, DeepseekV3ForCausalLM

    from kiban.model import hf

    hf.save(scorer.model, tmp_path)
    scorer.words.save(tmp_path)  # type: ignore[attr-defined]
    theirs = DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([[0, *AutoTokenizer.from_pretrained(tmp_path).encode(TEXT[:30], add_special_tokens=False)]])
    with torch.no_grad():
        loss = theirs(ids, labels=ids).loss.item()
    [score] = Scorer.load(tmp_path).texts([TEXT[:30]])
    assert score.log_likelihood == pytest.approx(-loss * (ids.shape[1] - 1), rel=1e-5)


def test_nothing_to_score_is_refused(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="empty text"):
        scorer.texts([""])
    with pytest.raises(KibanError, match="no config.json"):
        Scorer.load(tmp_path)


def test_accuracy_counts_the_right_choice(scorer: Scorer) -> None:
    items = [
        suite.Item(str(i), "", ("箱を運ぶ", "箱を運ぶ箱を運ぶ箱を運ぶ"), i % 2, "even" if i % 2 else "odd")
        for i in range(8)
    ]
    result = engine.choose(scorer, items, lambda n: None)
    assert result.metrics["accuracy"].value == 0.5 and result.metrics["accuracy"].n == 8
    assert {result.by["even"].value, result.by["odd"].value} == {0.0, 1.0}
    low, high = result.metrics["accuracy"].interval or (0, 0)
    assert 0.2 < low < 0.5 < high < 0.8


def test_bits_per_character_weighs_by_length(scorer: Scorer) -> None:
    documents = [
        {"id": "a", "source": "x", "text": TEXT},
        {"id": "b", "source": "y", "text": "書類"},
    ]
    result = engine.bits_per_character(scorer, documents, lambda n: None)
    [a], [b] = ([s for s in scorer.texts([d["text"]])] for d in documents)
    both = -(a.log_likelihood + b.log_likelihood) / math.log(2) / (a.characters + b.characters)
    assert result.metrics["all"].value == pytest.approx(both)
    assert result.metrics["x"].value == pytest.approx(a.bits_per_character)


def test_a_sample_is_the_same_for_everyone_and_grows() -> None:
    items = [suite.Item(str(i), "", ("a", "b"), 0) for i in range(100)]
    ten, twenty = (set(item.id for item in engine.sample(items, n)) for n in (10, 20))
    assert len(ten) == 10 and ten < twenty
    assert engine.sample(items, None) == items


@pytest.mark.parametrize("name", suite.names())
def test_every_suite_is_whole(name: str, kiban_data: Path) -> None:
    found = suite.load(name)
    path = found.path(kiban_data / "eval")
    if found.rule == "text":
        assert path is None
        return
    assert path is not None
    items = suite.items(found, path)
    assert items  # how many our own sets must hold together: test_pairs.py
    for item in items:
        assert 0 <= item.answer < len(item.choices) and len(set(item.choices)) == len(item.choices)
    if name == "keico":
        assert items[0].prompt.count("敬語の度合い：") == 6 and len(items) == 5069 - 5


def test_bad_sets_are_named(tmp_path: Path) -> None:
    found = suite.load("keigo")
    row = {"id": "1", "good": "a", "bad": "b", "phenomenon": "p"}
    for content, expected in [
        (json.dumps(row) + "\n" + json.dumps(row), "the item 1 twice"),
        (json.dumps({"id": "1", "good": "a"}), "not of its format"),
        ("{", "not of its format"),
        ("", "holds no item"),
    ]:
        (tmp_path / "set.jsonl").write_text(content)
        with pytest.raises(KibanError, match=expected):
            suite.items(found, tmp_path / "set.jsonl")
    (tmp_path / "set.jsonl").write_bytes("文".encode("cp932"))
    with pytest.raises(KibanError, match="not UTF-8"):
        suite.items(found, tmp_path / "set.jsonl")
    with pytest.raises(KibanError, match="no such suite"):
        suite.load("nothing")
