import random
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from kiban.corpus import duplicates
from kiban.corpus.demo_text import passages
from kiban.corpus.minhash import fingerprints, signatures
from tests.corpus.building import sentences


def grams(text: str) -> set[str]:
    text = "".join(text.split())
    return {text[i : i + 5] for i in range(max(len(text) - 4, 1))}


def jaccard(a: str, b: str) -> float:
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def edited_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs of texts of some 300 characters of prose, from nearly equal to mostly different."""
    draw = random.Random(1)
    prose = "".join("".join(passage.text.split()) for passage in passages())
    pairs = []
    for _ in range(count):
        start = draw.randrange(len(prose) - 300)
        text = prose[start : start + 300]
        other = list(text)
        for _ in range(draw.randrange(1, 60)):
            other[draw.randrange(300)] = draw.choice(prose)
        pairs.append((text, "".join(other)))
    return pairs


@pytest.mark.parametrize("bits", [32, 64])
def test_the_estimate_has_the_error_that_theory_says(bits: Literal[32, 64]) -> None:
    pairs = edited_pairs(4000)  # so many that the figure itself is known to 1.2 %
    truth = np.array([jaccard(a, b) for a, b in pairs])
    for k in (128, 256):
        first, second = (signatures(pa.array(texts), k, bits) for texts in zip(*pairs, strict=True))
        error = (first == second).mean(axis=1) - truth
        theory = np.sqrt((truth * (1 - truth) / k).mean())
        assert abs(np.sqrt((error**2).mean()) / theory - 1) < 0.05
        assert abs(error.mean()) < 0.003


def test_dakuten_make_another_text() -> None:
    texts = pa.array(["ガラスとパンを学校がばらばらに運んだ", "カラスとハンを学校かはらはらに運んた"])
    first, second = signatures(texts, 128)
    assert (first == second).mean() < 0.4
    assert fingerprints(texts)[0].tolist() != fingerprints(texts)[1].tolist()


def test_spaces_and_line_ends_make_no_other_text() -> None:
    texts = pa.array(["雨が　降る。\nやがて止む。", "雨が降る。やがて 止む。", "雨が降る。やがて止む!"])
    prints = fingerprints(texts).tolist()
    assert prints[0] == prints[1] != prints[2]
    signed = signatures(texts, 64)
    assert (signed[0] == signed[1]).all()


def test_short_texts_have_signatures() -> None:
    signed = signatures(pa.array(["はい", "はい", "いいえ"]), 64)
    assert (signed[0] == signed[1]).all() and (signed[0] != signed[2]).any()


def find(texts: list[str], ids: list[str]) -> duplicates.Duplicates:
    array = pa.array(texts)
    lengths = np.array([len(text) for text in texts])
    ranked = duplicates.rank(fingerprints(array), lengths, np.array(ids, "S32"))
    signs = signatures(array, 128)[ranked.documents[ranked.unique]]
    return duplicates.find(ranked, signs, 32, 0.8, 0.5)


def family() -> list[str]:
    base = sentences(30)
    near = [text.replace("雨", "雪", 1) + "追記。" for text in base[:8]]
    return [*base, *near, *base[:5], base[0].replace("。", "。\n"), "はい", "はい"]


def test_what_stays_does_not_depend_on_the_order() -> None:
    texts = family()
    ids = [f"{i:032}" for i in range(len(texts))]
    found = find(texts, ids)
    stays = {ids[i] for i in np.flatnonzero(found.kept == np.arange(len(ids)))}
    reasons = {ids[i]: (ids[found.kept[i]], bool(found.exact[i])) for i in range(len(ids))}
    for seed in range(5):
        order = list(range(len(texts)))
        random.Random(seed).shuffle(order)
        again = find([texts[i] for i in order], [ids[i] for i in order])
        shuffled = [ids[i] for i in order]
        assert {shuffled[i] for i in np.flatnonzero(again.kept == np.arange(len(ids)))} == stays
        told = {shuffled[i]: (shuffled[again.kept[i]], bool(again.exact[i])) for i in range(len(ids))}
        assert told == reasons


def test_copies_go_and_others_stay() -> None:
    texts = family()
    found = find(texts, [f"{i:032}" for i in range(len(texts))])
    stays = np.flatnonzero(found.kept == np.arange(len(texts))).tolist()
    # Of the first text the version with line ends is the longest, of the next seven the one with 追記; copies go.
    assert stays == [*range(8, 30), *range(31, 38), 43, 44]
    assert found.exact[0] and found.kept[0] == 43
    assert found.exact[45] and found.kept[45] == 44
    going = [i for i in range(len(texts)) if i not in stays]
    assert all(jaccard(texts[i], texts[found.kept[i]]) > 0.7 for i in going)


def test_a_chain_of_similar_texts_does_not_take_its_far_end() -> None:
    draw = random.Random(3)
    kana = [chr(c) for c in range(0x3042, 0x3093)]
    chain = ["".join(draw.choice(kana) for _ in range(600))]
    for _ in range(12):  # each like the one before it, the last nothing like the first
        chain.append(chain[-1][12:] + "".join(draw.choice(kana) for _ in range(12)))
    found = find(chain, [f"{i:032}" for i in range(len(chain))])
    going = np.flatnonzero(found.kept != np.arange(len(chain)))
    assert len(going) > 0
    assert found.similarity[going].min() >= 0.8
    assert len(set(found.cluster.tolist())) == 1  # but all of the chain stays on one side of a split


def test_nothing_at_all() -> None:
    ranked = duplicates.rank(np.empty((0, 2), np.uint64), np.empty(0), np.empty(0, "S32"))
    found = duplicates.find(ranked, np.empty((0, 128), np.uint32), 32, 0.8, 0.5)
    assert len(found.kept) == 0
