"""Predicted against measured, for rows in the form of `published_runs.json`.

A row that the constants were fitted on is predicted by constants fitted without the rows of its source and model
(`held_out.json`): what is reported is never a training error.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import median
from typing import Any

import numpy as np

from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.planning.memory import memory
from kiban.planning.published import Run, Unmodelled, read_run
from kiban.planning.running import prices, run_of
from kiban.planning.step_time import Constants, constants, rates, stacked, step_seconds

GIB = 2**30
STORAGE = 100e9  # bytes/s, of production runs whose storage nobody published


@dataclass(frozen=True)
class Compared:
    id: Any
    name: str
    figure: str  # the key under `measured`
    predicted: float
    measured: float
    held_out: bool  # the row was in the fit of the constants that ship, and others predict it
    chosen: tuple[str, ...]  # what the row does not say

    @property
    def relative_error(self) -> float:
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Checked:
    rows: list[Compared]
    unmodelled: list[tuple[Any, str]]

    @property
    def errors(self) -> list[float]:
        return sorted(abs(row.relative_error) for row in self.rows)

    @property
    def median_abs_error(self) -> float | None:
        return median(self.errors) if self.rows else None

    @property
    def p90_abs_error(self) -> float | None:
        return float(np.quantile(self.errors, 0.9)) if self.rows else None


@cache
def _held_out() -> Mapping[str, Any]:
    text = resources.files("kiban.planning").joinpath("held_out.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def fingerprint(row: Mapping[str, Any]) -> str:
    """Of what a row says, whatever its number."""
    said = {name: row.get(name) for name in ("name", "source", "model", "hardware", "layout", "measured")}
    return sha256_bytes(canonical_json(said))[:12]


def constants_for(row: Mapping[str, Any]) -> tuple[Constants, bool]:
    """Those that have not seen the row, and whether the ones that ship have."""
    fold = _held_out()["rows"].get(fingerprint(row))
    if fold is None:
        return constants(), False
    return _held_out()["folds"][fold], True


def check(rows: Sequence[Mapping[str, Any]]) -> Checked:
    """Every figure of every row, or why there is none."""
    compared: list[Compared] = []
    unmodelled: list[tuple[Any, str]] = []
    for row in rows:
        c, held_out = constants_for(row)
        try:
            run = read_run(row, c)
            figures = predictions(run, c)
        except Unmodelled as reason:
            unmodelled.append((row.get("id"), str(reason)))
            continue
        measured = {name: row["measured"].get(name) for name in figures}
        given = {name: float(value) for name, value in measured.items() if value}
        if not given:
            unmodelled.append((row.get("id"), "it has no measured figure that is modelled"))
        for name, value in given.items():
            compared.append(
                Compared(row.get("id"), str(row.get("name")), name, figures[name], value, held_out, run.chosen)
            )
    return Checked(compared, unmodelled)


def predictions(run: Run, c: Constants) -> dict[str, float]:
    """By the keys of `measured`."""
    seconds = float(step_seconds(stacked([run.work()]), rates([run.situation], c), c)[0])
    each = run.layout.global_batch * run.sequence_length / seconds / run.layout.gpus
    measured = run.row["measured"]
    flops = model_flops(run, str(measured.get("flop_convention")).lower())
    figures = {
        "step_time_s": seconds,
        "tokens_per_s_per_gpu": each,
        "tflops_per_gpu_model": flops * each / 1e12,
        "tflops_per_gpu_hardware": flops * each / 1e12,
        "peak_mem_gb": memory(run.shape, run.layout, run.sequence_length)["total"] / GIB,
    }
    tokens = measured.get("tokens")
    if tokens:
        costs = prices()
        done = run_of(run.shape, run.gpu, run.layout.gpus, tokens, each * run.layout.gpus, 1.0, costs, STORAGE)
        figures["gpu_hours"] = done.gpu_hours
    if not any(measured.get(name) for name in figures):
        peak = measured.get("mfu_peak_tflops") or run.gpu.bf16
        figures["mfu_pct"] = 100 * flops * each / 1e12 / peak
    return figures


def model_flops(run: Run, convention: str) -> float:
    """For each token, as the row's source counts them: full or causal attention, recomputation or not."""
    hardware = "hardware flops" in convention or "includes" in convention or "hfu" in convention.split(";")[0]
    full = "full attention" in convention or "96bslh" in convention or hardware
    if "grok1: half" in convention and run.shape.experts == 8:
        full = False
    return run.shape.flops_per_token(run.sequence_length, causal=not full) * (4 / 3 if hardware else 1.0)
