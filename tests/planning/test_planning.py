"""The cost model, the search and the check against published runs."""

import json
import os
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kiban.model.layout import Layout, fault
from kiban.model.presets import PRESETS, preset
from kiban.planning.check import check, constants_for
from kiban.planning.fit import fit, measured_step, predicted_steps
from kiban.planning.hardware import gpu
from kiban.planning.memory import memory
from kiban.planning.published import Run, Unmodelled, read_rows, read_run
from kiban.planning.running import daly
from kiban.planning.search import layouts, precisions_of, search
from kiban.planning.shape import shape_of
from kiban.planning.step_time import constants
from kiban.planning.work import stage_layers, work_of
from tests.commands import error_of, kiban_json

ROWS = Path(os.environ.get("KIBAN_DATA", "")) / "published_runs.json"
needs_rows = pytest.mark.skipif(not ROWS.is_file(), reason="KIBAN_DATA is not set")


@pytest.mark.parametrize("name", PRESETS)
def test_the_shape_counts_what_the_model_counts(name: str) -> None:
    config = preset(name)
    for mtp in (0, 1):
        config = config.model_copy(update={"num_nextn_predict_layers": mtp})
        shape, counted = shape_of(config), config.parameters()
        assert (shape.total, shape.active) == (counted.total, counted.active)


def test_ranks_together_do_all_the_work() -> None:
    """Tensor, context and data parallelism share the products out; a pipeline's stages have a share of the layers."""
    shape, card = shape_of(preset("base")), gpu("h100")
    one = work_of(shape, Layout(1, global_batch=8), card, 4096)
    for layout in (Layout(2, tensor=2, global_batch=8), Layout(2, context=2, global_batch=8)):
        half = work_of(shape, layout, card, 4096)
        assert half.linear_flops * half.micro_batches == pytest.approx(one.linear_flops * one.micro_batches / 2)
        assert half.expert_flops * half.micro_batches == pytest.approx(one.expert_flops * one.micro_batches / 2)
    forward_and_backward = one.linear_flops + one.expert_flops + one.head_flops
    norms = (2 * shape.layers + 1) * shape.hidden  # counted as parameters, not as products
    assert forward_and_backward == pytest.approx(6 * 4096 * (shape.active - norms), rel=0.01)


def test_uneven_stages_hold_all_layers() -> None:
    shape = shape_of(preset("trillion"))
    for pipeline in (2, 4, 8, 16):
        middle, last = stage_layers(shape, Layout(64, pipeline=pipeline))
        assert middle * (pipeline - 1) + last >= shape.layers


def test_memory_falls_with_sharding_and_recomputation() -> None:
    shape = shape_of(preset("base"))

    def total(**sizes: object) -> float:
        return memory(shape, Layout(8, global_batch=8, **sizes), 4096)["total"]  # type: ignore[arg-type]

    assert total(shard=0) > total(shard=1) > total(shard=2) > total(shard=3)
    assert total() > total(recompute="selective") > total(recompute="full")
    assert total() > total(expert=8)


def test_daly() -> None:
    assert daly(60, 86400) == pytest.approx((2 * 60 * 86400) ** 0.5 - 60, rel=0.02)


def test_what_does_not_divide_is_named() -> None:
    shape = shape_of(preset("base"))
    for layout, word in (
        (Layout(8, tensor=3), "no multiple"),
        (Layout(11, expert=11), "experts"),
        (Layout(8, global_batch=12), "batch of 12"),
        (Layout(0), "at least 1"),
        (Layout(96, context=3, global_batch=32), "sequences of 4096"),
    ):
        assert word in str(fault(shape, layout, 4096)), layout


def test_the_search_is_fast_and_keeps_to_the_memory() -> None:
    shape, card = shape_of(preset("trillion")), gpu("h100")
    start = time.process_time()
    every = layouts(shape, card, 4096, 8192, 8192, precisions_of(card))
    found = search(shape, card, every, 8192)
    assert time.process_time() - start < 5
    assert found.considered > 5000 and found.too_large
    times = [candidate.seconds for candidate in found.candidates]
    assert times == sorted(times)
    for candidate in found.candidates[:200]:
        assert fault(shape, candidate.layout, 8192) is None
        assert candidate.memory["total"] < card.memory * 1e9


@needs_rows
def test_published_runs_are_predicted_without_having_been_seen() -> None:
    rows = [row for row in read_rows(ROWS) if row["tier"] in "AB" and row["verified_level"] == "full"]
    steps = [row for row in rows if constants_for(row)[1]]
    assert len(steps) > 330
    found = check(steps)
    errors = [
        max(abs(row.relative_error) for row in found.rows if row.id == id and row.figure in figures)
        for id in {row.id for row in found.rows}
        for figures in [("step_time_s", "tokens_per_s_per_gpu")]
    ]
    errors.sort()
    assert errors[len(errors) // 2] <= 0.07
    assert errors[int(0.9 * len(errors))] <= 0.20
    every = check(rows)
    assert {row.id for row in every.rows} | {id for id, _ in every.unmodelled} == {row["id"] for row in rows}


@needs_rows
def test_the_constants_that_ship_are_those_that_the_fit_gives() -> None:
    runs: list[Run] = []
    for row in read_rows(ROWS):
        if row["tier"] in "AB" and row["verified_level"] == "full":
            try:
                runs.append(read_run(row))
            except Unmodelled:
                continue
    runs = [run for run in runs if measured_step(run)]
    now, shipped = predicted_steps(runs, fit(runs)), predicted_steps(runs, constants())
    assert max(abs(a / b - 1) for a, b in zip(now, shipped, strict=True)) < 0.02


def test_rows_that_cannot_be_modelled_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"id": 7, "name": "x"}, {"id": 8}]))
    answer = kiban_json("plan", "check", file, "--json")
    assert [row["id"] for row in answer["unmodelled"]] == [7, 8] and answer["rows"] == []
    assert answer["median_abs_error"] is None


def test_a_search_at_the_command_line() -> None:
    answer = kiban_json("plan", "search", "base", "--gpu", "h100", "--gpus", 64, "--tokens", "300B", "--json")
    best = answer["plans"][0]
    assert best["memory_bytes"]["total"] == pytest.approx(
        sum(value for kind, value in best["memory_bytes"].items() if kind != "total")
    )
    assert 0 < best["goodput"] < 1 and 0.05 < best["mfu"] < 1 and best["jpy"] > 0


@pytest.mark.slow
def test_the_number_of_gpus_that_keeps_to_the_bounds(tmp_path: Path) -> None:
    asked = ("plan", "search", "small", "--gpu", "h100", "--tokens", "6B")
    free = kiban_json(*asked, "--deadline", 0.05, "--picture", tmp_path / "p.svg", "--json")
    points = {point["gpus"]: point for point in free["pareto"]}
    within = [point for point in points.values() if point["days"] <= 0.05]
    assert 0 < len(within) < len(points) and points[free["gpus"]] == min(within, key=lambda point: point["jpy"])
    front = sorted((point for point in points.values() if point["best"]), key=lambda point: point["days"])
    assert [point["jpy"] for point in front] == sorted((point["jpy"] for point in front), reverse=True)
    assert all(any(p["days"] <= q["days"] and p["jpy"] <= q["jpy"] for p in front) for q in points.values())
    drawn = ElementTree.parse(tmp_path / "p.svg").getroot()
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(points) and sum(c.get("class") == "over" for c in circles) == len(points) - len(within)
    said = error_of(*asked, "--gpus", 1, "--deadline", 0.05)
    assert f"--gpus {free['gpus']} would take" in said
    said = error_of(*asked, "--deadline", 0.05, "--budget-jpy", 1)
    assert "--budget-jpy 1 holds on none" in said and "--deadline 0.05 holds on" in said
    said = error_of(*asked, "--power-mw", 0.002, "--deadline", 0.05)
    assert "--power-mw 0.002 holds on 1 GPUs" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("base", "--gpu", "h100", "--tokens", "1B"), "say how many, or give --deadline"),
        (("base", "--gpu", "h100", "--tokens", "1B", "--deadline", "0"), "--deadline 0.0: must be more than 0"),
        (("trillion", "--gpu", "a100-40", "--tokens", "1B", "--power-mw", "0.001"), "holds on none (least: "),
        (("base", "--gpu", "h1000", "--gpus", "8", "--tokens", "1B"), "--hardware FILE"),
        (("base", "--gpu", "h100", "--gpus", "0", "--tokens", "1B"), "must be at least 1"),
        (("base", "--gpu", "h100", "--gpus", "8", "--tokens", "15TT"), "15TT"),
        (("trillion", "--gpu", "h100", "--gpus", "8", "--tokens", "1B"), "too much"),
        (("base", "--gpu", "a100", "--gpus", "8", "--tokens", "1B", "--precision", "fp8"), "it has fp16, bf16"),
        (("base", "--gpu", "h100", "--gpus", "8", "--tokens", "1T", "--deadline", "1"), "--deadline 1"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in error_of("plan", "search", *arguments)
