"""A step whose loss is no number, or far above those before it: what counts as one, and how many may be passed over.

What is done is set by `on_nan` and `on_spike`: `stop`; `skip` the update of that step; or `rollback` to the newest
checkpoint and go on after the step, so that nothing read since that checkpoint has an effect (PaLM, arXiv 2204.02311,
section 5.1, got past its spikes that way).
"""

import math
from statistics import fmean, pstdev
from typing import Literal

WINDOW = 128  # losses that a spike is measured against (OLMo 2, arXiv 2501.00656, has 128 and 6 deviations too)
FEWEST = 32
DEVIATIONS = 6.0
MOST_IN_WINDOW = 8  # more faults than that are no accident

Fault = Literal["nan", "spike"]


def fault_of(loss: float, grad_norm: float, before: list[float]) -> Fault | None:
    """`before`: the losses of the last WINDOW steps before, nats/token."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return "nan"
    recent = [value for value in before if math.isfinite(value)]
    if len(recent) >= FEWEST and loss > fmean(recent) + DEVIATIONS * pstdev(recent):
        return "spike"
    return None


def too_many(excluded: list[list[int]], step: int) -> bool:
    """Whether so many faults lie within the last WINDOW steps that passing over another would only waste time."""
    return sum(last > step - WINDOW for _, last in excluded) >= MOST_IN_WINDOW
