"""The peak of memory is in bytes, stays when memory is given back, and starts again where that can be had."""

import sys

import numpy as np
import pytest

from kiban.artifacts.memory import peak_bytes, reset_peak

MB = 1 << 20


def test_the_peak_is_in_bytes() -> None:
    assert 10 * MB < peak_bytes() < 100_000 * MB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets it")
def test_the_peak_holds_what_was_given_back_until_it_is_reset() -> None:
    reset_peak()
    before = peak_bytes()
    held = np.ones(200 * MB, np.uint8)
    during = peak_bytes()
    del held
    assert 190 * MB < during - before < 260 * MB
    assert abs(peak_bytes() - during) < 5 * MB  # the kernel counts in batches
    reset_peak()
    assert peak_bytes() < during - 150 * MB
