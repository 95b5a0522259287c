import numpy as np

from kiban.corpus import hold_back


def ids(count: int) -> list[bytes]:
    return [f"{i * 7919:032}".encode() for i in range(count)]


def test_the_share_is_kept_per_source_and_does_not_depend_on_the_order() -> None:
    count = 4000
    source = ["a" if i % 4 else "b" for i in range(count)]
    characters = np.array([100 + i % 900 for i in range(count)])
    held = hold_back.choose(np.arange(count), ids(count), source, characters, 0.02)
    for name in "ab":
        of = np.array([s == name for s in source])
        assert 0.015 < characters[held & of].sum() / characters[of].sum() < 0.031
    order = np.random.default_rng(1).permutation(count)
    names = ids(count)
    again = hold_back.choose(
        np.arange(count), [names[i] for i in order], [source[i] for i in order], characters[order], 0.02
    )
    assert (again == held[order]).all()


def test_a_group_is_held_back_whole_or_not_at_all() -> None:
    group = np.arange(1000) // 5
    held = hold_back.choose(group, ids(1000), ["a"] * 1000, np.full(1000, 100), 0.05)
    assert held.any()
    assert all(len(set(held[group == number].tolist())) == 1 for number in set(group.tolist()))


def test_documents_of_a_cluster_or_of_an_author_are_a_group() -> None:
    cluster = np.array([0, 0, 2, 3, 4, 4])
    author = ["x", "y", "y", "", "", "x"]
    found = hold_back.groups(cluster, author).tolist()
    assert len({found[i] for i in (0, 1, 2, 4, 5)}) == 1 and found[3] != found[0]


def test_few_documents() -> None:
    many = np.full(100, 500)
    assert hold_back.choose(np.arange(3), ids(3), ["a"] * 3, many[:3], 0.01).sum() == 1
    assert hold_back.choose(np.arange(1), ids(1), ["a"], many[:1], 0.01).sum() == 0
    assert hold_back.choose(np.arange(9), ids(9), ["a"] * 9, many[:9], 0.0).sum() == 0
    assert hold_back.choose(np.arange(0), [], [], many[:0], 0.5).sum() == 0
    # From eight groups on, each source gives one.
    held = hold_back.choose(np.arange(18), ids(18), ["a"] * 9 + ["b"] * 9, many[:18], 0.01)
    assert held[:9].sum() == 1 and held[9:].sum() == 1
