"""Scores against plain sums over logits, in whatever company they are made."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from kiban.artifacts.errors import KibanError
from kiban.evaluation.backbones import KibanBackbone, KibanWords, load_hugging_face
from kiban.evaluation.scoring import Scorer
from tests.evaluation import models

TEXT = "箱を運ぶ前に部品を数える。工具を並べる前に書類を調べる。" * 12
EXAMPLES = "箱を運ぶ前に部品を数える。\n書類を並べる前に工具を調べる。\n円柱を片付ける前に箱を数える。\n"
QUESTIONS = [
    (context, choice)
    for context in ("箱を運ぶ前に", "工具を並べる前に部品を", "", "円柱")
    for choice in ("数える", "調べる。書類", "運ぶ箱", "数")
]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return models.scorer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.exported(tmp_path_factory.mktemp("model"))


def plain(scorer: Scorer, ids: Sequence[int]) -> list[float]:
    """log p of each token after the first, from one forward pass."""
    assert isinstance(scorer.backbone, KibanBackbone)
    model = scorer.backbone.model
    with torch.no_grad():
        log_probs = model.logits(model(torch.tensor([ids[:-1]])))[0].log_softmax(-1)
    return [float(row[token]) for row, token in zip(log_probs, ids[1:], strict=True)]


def ids_of(scorer: Scorer, text: str) -> list[int]:
    return [*scorer.words.lead, *scorer.words.encode(text)]


def test_a_short_text_is_one_forward_pass(scorer: Scorer) -> None:
    [score] = scorer.texts([TEXT[:20]])
    ids = ids_of(scorer, TEXT[:20])
    assert score.tokens == len(ids) - 1 and score.characters == 20
    assert score.log_likelihood == pytest.approx(sum(plain(scorer, ids)), rel=1e-5)
    assert score.bits_per_character == pytest.approx(-score.log_likelihood / math.log(2) / 20)


def test_a_long_text_goes_by_windows_with_half_a_context_of_stride(scorer: Scorer) -> None:
    ids = ids_of(scorer, TEXT)
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
    ids = ids_of(scorer, "箱を運ぶ前に部品を数える")
    assert nats == pytest.approx(sum(plain(scorer, ids)[-count:]), rel=1e-5)
    assert 0 < count < len(ids)
    [(all_nats, all_count)] = scorer.log_likelihoods([("", "箱を運ぶ前に部品を数える")])
    assert all_count == len(ids) - 1 and all_nats < nats


def test_white_space_at_the_end_of_a_context_belongs_to_the_continuation(scorer: Scorer) -> None:
    [(nats, count)] = scorer.log_likelihoods([("箱を運ぶ。\n", "部品")])
    ids = ids_of(scorer, "箱を運ぶ。\n部品")
    assert count == len(ids) - len(ids_of(scorer, "箱を運ぶ。"))
    assert nats == pytest.approx(sum(plain(scorer, ids)[-count:]), rel=1e-5)


def test_a_context_too_long_is_cut_off_at_the_left(scorer: Scorer) -> None:
    [(nats, count)] = scorer.log_likelihoods([(TEXT, "部品を数える")])
    ids = ids_of(scorer, TEXT + "部品を数える")[-scorer.context - 1 :]
    assert nats == pytest.approx(sum(plain(scorer, ids)[-count:]), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
@pytest.mark.parametrize("examples", ["", EXAMPLES])
def test_scores_do_not_depend_on_their_company(batch_tokens: int, examples: str) -> None:
    """Alone, in batches of any size, with beginnings that are shared by some or by all: the same."""
    alone = models.scorer(max_position_embeddings=256)
    together = models.scorer(batch_tokens, max_position_embeddings=256)
    pairs = [(examples + context if context else "", choice) for context, choice in QUESTIONS]
    expected = [alone.log_likelihoods([pair])[0] for pair in pairs]
    found = together.log_likelihoods(pairs) + together.log_likelihoods(pairs[::-1])[::-1]
    assert [n for _, n in found] == 2 * [n for _, n in expected]
    assert [nats for nats, _ in found] == pytest.approx(2 * [nats for nats, _ in expected], abs=1e-4)


def test_what_is_shared_is_read_once() -> None:
    scorer = models.scorer(max_position_embeddings=256)
    read = 0
    forward = scorer.backbone.forward

    def counting(tokens_BL: torch.Tensor, *rest: object) -> object:
        nonlocal read
        read += tokens_BL.numel()
        return forward(tokens_BL, *rest)  # type: ignore[arg-type]

    scorer.backbone.forward = counting  # type: ignore[method-assign, assignment]
    pairs = [
        (EXAMPLES + question, choice) for question in ("箱を", "部品を") for choice in ("数える", "並べる", "運ぶ")
    ]
    scorer.log_likelihoods(pairs)
    shared = len(scorer.words.encode(EXAMPLES))
    assert shared > 32
    assert read < shared + 80 < sum(len(scorer.words.encode(c + t)) for c, t in pairs) / 2
    first, read = read, 0
    scorer.log_likelihoods(pairs)
    assert read <= first - shared  # it stays for the next call


def test_transformers_gives_the_same_log_likelihoods(scorer: Scorer, folder: Path) -> None:
    """The same weights as any Hugging Face folder. Its tokenizer puts no BOS, ours does."""
    backbone, words = load_hugging_face(folder, torch.float32)
    words.lead = words.lead_alone
    theirs = Scorer(backbone, words)
    for pairs in (QUESTIONS, [(EXAMPLES[:30] + context, choice) for context, choice in QUESTIONS]):
        expected, found = scorer.log_likelihoods(pairs), theirs.log_likelihoods(pairs)
        assert [n for _, n in found] == [n for _, n in expected]
        assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=1e-4)
    prompts = ["箱を", "工具を並べる前に部品を", "円柱を片付ける前に"]
    assert theirs.generate(prompts, 8, ()) == scorer.generate(prompts, 8, ())


def test_what_is_written_does_not_depend_on_the_company(scorer: Scorer) -> None:
    prompts = ["箱を", "工具を並べる前に部品を", "円柱を片付ける前に", "書"]
    alone = [scorer.generate([prompt], 12, ())[0] for prompt in prompts]
    assert scorer.generate(prompts, 12, ()) == alone and any(alone)
    ids = ids_of(scorer, prompts[0])
    for _ in range(12):
        assert isinstance(scorer.backbone, KibanBackbone)
        with torch.no_grad():
            hidden = scorer.backbone.model(torch.tensor([ids]))
            ids.append(int(scorer.backbone.model.logits(hidden[:, -1]).argmax()))
    assert alone[0] == scorer.words.decode(ids[-12:])


def test_writing_ends_at_a_stop_string(scorer: Scorer) -> None:
    [whole] = scorer.generate(["工具を"], 24, ())
    stop = max(set(whole) - {"\ufffd"}, key=whole.index)
    assert whole.index(stop) > 0
    assert scorer.generate(["工具を"], 24, (stop,)) == [whole[: whole.index(stop)]]


def test_nothing_to_score_is_refused(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="empty text"):
        scorer.texts([""])
    with pytest.raises(KibanError, match="adds no token"):
        scorer.log_likelihoods([("箱", "")])
    with pytest.raises(KibanError, match="exceeds the model's context"):
        scorer.log_likelihoods([("箱", TEXT)])
    with pytest.raises(KibanError, match="no config.json"):
        Scorer.load(tmp_path)


def test_a_tokenizer_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    models.exported(tmp_path, vocab_size=400)
    with pytest.raises(KibanError, match="vocabulary of 400, the tokenizer one of 360"):
        Scorer.load(tmp_path)
    models.exported(tmp_path, vocab_size=300)
    with pytest.raises(KibanError, match="vocabulary of 300, the tokenizer one of 360"):
        load_hugging_face(tmp_path)
    assert isinstance(Scorer.load(folder).words, KibanWords)
