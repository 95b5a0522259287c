"""The dry run against the closed forms, and at the command line."""

import json
import subprocess
import sys
from typing import Any

import pytest

from kiban.artifacts.errors import KibanError
from kiban.cli.dryrun import dryrun
from kiban.model.presets import preset
from kiban.planning.hardware import gpu
from kiban.planning.layout import Layout
from kiban.planning.memory import memory
from kiban.planning.own_memory import own_memory
from kiban.planning.shape import shape_of
from kiban.planning.work import work_of
from tests.commands import error_of, kiban

# Preset, tokens of a sequence, sequences of a micro-batch, micro-batches, MTP layers.
CASES = (("nano", 512, 1, 1, 0), ("nano", 256, 4, 2, 0), ("192", 256, 2, 2, 1), ("384", 512, 2, 1, 0))
RUN = """
import dataclasses, json, sys
from kiban.model.presets import preset
from kiban.planning.dryrun import dryrun
from kiban.planning.layout import Layout
found = []
for name, length, micro, number, mtp in json.loads(sys.argv[1]):
    config = preset(name).model_copy(update={"num_nextn_predict_layers": mtp})
    layout = Layout(1, micro_batch=micro, global_batch=micro * number)
    found.append(dataclasses.asdict(dryrun(config, layout, 0, length)))
print(json.dumps(found))
"""


def test_memory_and_operations_are_those_of_the_closed_forms() -> None:
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(CASES)], capture_output=True, text=True, check=True)
    for (name, length, micro, number, mtp), found in zip(CASES, json.loads(done.stdout), strict=True):
        config = preset(name).model_copy(update={"num_nextn_predict_layers": mtp})
        layout = Layout(1, micro_batch=micro, global_batch=micro * number)
        parameters = config.parameters()
        assert (found["parameters"], found["active_parameters"]) == (parameters.total, parameters.active)
        closed = own_memory(config, layout, length)
        for kind, size in found["memory_bytes"].items():
            assert size == pytest.approx(closed[kind], rel=0.03, abs=0.01 * closed["total"]), (name, kind)
        work = work_of(shape_of(config), layout, gpu("h100"), length)
        flops = work.linear_flops + work.expert_flops + work.head_flops + work.attention_flops
        # Experts' rows are filled up to multiples of 16, which the plan does not count.
        assert flops <= found["flops"] / number <= 1.06 * flops, name
        assert found["collectives"] == []


def test_weights_and_optimiser_take_what_the_planner_says() -> None:
    for name in ("nano", "base", "trillion"):
        layout = Layout(1, global_batch=2)
        ours, general = own_memory(preset(name), layout, 4096), memory(shape_of(preset(name)), layout, 4096)
        kept = ours["weights"] + ours["gradients"] + ours["optimiser"]
        in_bf16 = 2 * preset(name).parameters().total  # a copy of the weights, which ours counts with the activations
        assert kept + in_bf16 == pytest.approx(general["weights"] + general["gradients"] + general["optimiser"])


def test_the_command() -> None:
    said = kiban("dryrun", "192", "--sequence-length", 64, "--mtp").stdout
    assert "rank 0 of 1" in said and "memory" in said and "TFLOP a step" in said
    assert error_of("dryrun", "192", "--rank", "-1").startswith("--rank -1: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "give a preset, or a --plan"),
        ({"preset": "nano", "world": 0}, "--world 0: must be at least 1"),
        ({"preset": "nano", "world": 8, "tensor": 3}, "no multiple of tensor 3"),
        ({"preset": "nano", "world": 8, "expert": 5}, "expert = 5 does not divide the 16 experts"),
        ({"preset": "nano", "rank": 1}, "--rank 1: there are ranks 0 to 0"),
        ({"preset": "nano", "recompute": "some"}, "use one of none, selective, full"),
        ({"preset": "mini"}, "there is no such preset"),
    ],
)
def test_bad_input(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(KibanError) as caught:
        dryrun(**arguments)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
