import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiban.artifacts.order import position_of, sequence_at


@pytest.mark.parametrize("num_sequences", [1, 2, 3, 4, 5, 17, 64, 1000])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_epoch_is_a_permutation(num_sequences: int, epoch: int) -> None:
    start = epoch * num_sequences
    order = [sequence_at(7, start + i, num_sequences) for i in range(num_sequences)]
    assert sorted(order) == list(range(num_sequences))


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(1, 2**40))
def test_position_is_the_inverse(seed: int, position: int, num_sequences: int) -> None:
    sequence = sequence_at(seed, position, num_sequences)
    assert position_of(seed, sequence, position // num_sequences, num_sequences) == position


def test_epochs_and_seeds_differ_and_neighbours_are_far_apart() -> None:
    n = 1000
    first, second = ([sequence_at(0, e * n + i, n) for i in range(n)] for e in (0, 1))
    assert first != second != [sequence_at(1, i, n) for i in range(n)]
    steps = [abs(a - b) for a, b in zip(first, first[1:], strict=False)]
    assert 250 < sum(steps) / len(steps) < 420  # a uniformly random permutation has n / 3 on average


def test_the_order_is_the_same_for_ever() -> None:
    """A changed order would make every trace of a finished run wrong."""
    order = [sequence_at(20260412, i, 10) for i in range(12)]
    assert order == [7, 9, 5, 2, 8, 6, 0, 4, 3, 1, 9, 6]
