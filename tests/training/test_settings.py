from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.model.presets import PRESETS, preset
from kiban.training.memory import check_memory
from kiban.training.schedule import cosine, wsd
from kiban.training.settings import TrainingSettings, parse_tokens
from tests.training import tiny


@pytest.mark.parametrize(
    ("written", "tokens"), [(7, 7), ("500k", 500_000), ("1.2M", 1_200_000), ("1_000", 1000), ("15T", 15 * 10**12)]
)
def test_tokens_are_read(written: int | str, tokens: int) -> None:
    assert TrainingSettings(tokens=written).tokens == tokens == parse_tokens(written)


@pytest.mark.parametrize("written", ["15X", "20 M", "1e6", "", "M", "-5", -5, 0, "0k", 1.5, True, None, "２０M"])
def test_mistyped_tokens_are_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="tokens"):
        TrainingSettings(tokens=written)


def test_what_is_not_set_follows_from_the_preset() -> None:
    nano = TrainingSettings().resolved(preset("nano"))
    assert nano.sequence_length == preset("nano").max_position_embeddings
    trillion = TrainingSettings(preset="trillion").resolved(preset("trillion"))
    assert trillion.learning_rate == pytest.approx(2.2e-4)
    assert trillion.batch_sequences and trillion.sequence_length
    assert trillion.batch_sequences * trillion.sequence_length == pytest.approx(63e6, rel=0.01)
    assert (nano.dtype, trillion.dtype) == ("float32", "bfloat16")
    given = TrainingSettings(sequence_length=64, batch_sequences=3, learning_rate=0.1, qk_clip=0.0, dtype="float32")
    assert given.resolved(preset("nano")) == given


def test_the_rules_are_monotonic_in_size() -> None:
    resolved = [TrainingSettings(preset=name).resolved(preset(name)) for name in PRESETS]
    rates = [s.learning_rate or 0 for s in resolved]
    batches = [(s.batch_sequences or 0) * (s.sequence_length or 0) for s in resolved]
    assert rates == sorted(rates, reverse=True) and batches == sorted(batches)


def test_where_checkpoints_are_due_is_not_part_of_the_address() -> None:
    assert "save_every_seconds" not in TrainingSettings(save_every_seconds=1).model_dump()


def test_the_schedule_rises_holds_and_falls() -> None:
    factors = [wsd(step, 100, 0.05, 0.3) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(factors[5:70]) == {1.0}
    assert factors[70:] == sorted(factors[70:], reverse=True) and factors[-1] == pytest.approx(1 / 30)
    assert all(0 < wsd(step, n, 0.05, 0.3) <= 1 for n in (1, 2, 3) for step in range(n))


def test_the_cosine_rises_and_falls_to_a_tenth() -> None:
    factors = [cosine(step, 100, 0.05) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True) and factors[-1] == pytest.approx(0.1)
    assert all(0 < cosine(step, n, 0.05) <= 1 for n in (1, 2, 3) for step in range(n))


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_share has no effect"):
        TrainingSettings(schedule="cosine", decay_share=0.1)


def test_a_preset_that_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match=r"parameters need \d+\.\d GB for training, \d+\.\d GB more than are free"):
        check_memory(preset("trillion"), torch.device("cpu"), 2, True)
    check_memory(tiny.config(), torch.device("cpu"), 1, False)
