"""How numbers are written."""

import pytest

from kiban.console.charts import smoothed, thinned, ticks
from kiban.console.words import Both, between, data_size, duration, exact, quantity, short, yen


@pytest.mark.parametrize(
    ("amount", "ja", "en"),
    [
        (10_000_000_000, "100億円", "¥10 billion"),
        (12_345_600_000, "123億4,560万円", "¥12,345,600,000"),
        (12_340_000_000, "123億4,000万円", "¥12.34 billion"),
        (1_500_000_000, "15億円", "¥1.5 billion"),
        (50_000_000, "5,000万円", "¥50 million"),
        (1_200_000_000_000, "1兆2,000億円", "¥1,200 billion"),
        (12_345, "1万2,345円", "¥12,345"),
        (0, "0円", "¥0"),
    ],
)
def test_yen(amount: int, ja: str, en: str) -> None:
    assert yen(amount) == Both(ja, en)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (1234567, "1,234,567"),
        (3.21421, "3.214"),
        (0.00312, "0.00312"),
        (1e-5, "1.00e-05"),
        (4100.2, "4,100"),
    ],
)
def test_exact(value: float, text: str) -> None:
    assert exact(value) == text


def test_large_numbers_take_the_units_of_each_language() -> None:
    assert short(5_023_456) == Both("502万", "5.02M")
    assert short(1.04e12) == Both("1.04兆", "1.04T")
    assert short(999_999) == Both("999,999", "999,999")
    assert data_size(999) == "999 B" and data_size(33_000_000) == "33.0 MB"


def test_quantities() -> None:
    assert quantity(0.7, "proportion") == Both("70.0%", "70.0%")
    assert quantity(5160, "documents") == Both("5,160文書", "5,160 documents")
    assert quantity(1.5, "furlongs") == Both("1.5 furlongs", "1.5 furlongs")
    assert between((0.49, 0.66), "proportion") == "49.0–66.0%" and between(None, "proportion") == ""
    assert duration(0.04) == Both("0.1秒未満", "under 0.1 s") and duration(0.4).en == "0.4 s"
    assert duration(59.6) == Both("1分00秒", "1 min 00 s") and duration(3725) == Both("1時間02分", "1 h 02 min")


def test_both_escapes_what_it_holds() -> None:
    assert str(Both("<あ>", "<a>").__html__()) == (
        '<span data-lang="ja" lang="ja">&lt;あ&gt;</span><span data-lang="en" lang="en">&lt;a&gt;</span>'
    )
    assert str(Both("&", "&").__html__()) == "&amp;"


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1200, 5) == [0, 500, 1000]
    assert ticks(2.9, 9.4, 4) == [4, 6, 8]
    assert ticks(1, 3, 5, least=1.0) == [1, 2, 3]
    for low, high in ((0.0, 1e-5), (-3.0, 7.0), (1e6, 1e6 + 1), (5.0, 5.0)):
        found = ticks(low, high, 4)
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found) and len(found) <= 8


def test_smoothing_keeps_constants_and_ends() -> None:
    assert smoothed([2.0] * 7, 3) == [2.0] * 7
    assert smoothed([1.0, 5.0, 3.0], 10) == [1.0, 3.0, 3.0]
    xs, ys = thinned(list(range(1000)), [1.0] * 1000, most=100)
    assert len(xs) == 100 and xs[0] == 4.5 and set(ys) == {1.0}
