import numpy as np
import pytest

from kiban.artifacts.intervals import bootstrap_mean, bootstrap_ratio, wilson


def test_wilson_on_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857-872), table I, method 3."""
    for successes, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_contains_the_estimate_at_both_ends() -> None:
    for n in (1, 3, 10, 999):
        assert wilson(0, n)[0] == 0.0
        assert wilson(n, n)[1] == 1.0


def test_wilson_refuses_what_is_no_proportion() -> None:
    for successes, n in [(0, 0), (3, 2), (-1, 5)]:
        with pytest.raises(ValueError, match="no proportion"):
            wilson(successes, n)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_mean(list(rng.normal(3.0, 1.0, 60)), seed=trial, resamples=300)
        hits += low <= 3.0 <= high
    assert 175 <= hits <= 199


def test_bootstrap_ratio_weights_by_the_denominator() -> None:
    assert bootstrap_ratio([2.0, 30.0], [1.0, 15.0], seed=0) == (2.0, 2.0)
    with pytest.raises(ValueError, match="nothing to resample"):
        bootstrap_ratio([], [], seed=0)
