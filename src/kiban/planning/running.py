"""From a step to a run: days, failures, checkpoints, goodput, energy, money."""

import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kiban.artifacts.errors import KibanError
from kiban.planning.hardware import GPU
from kiban.planning.shape import Shape

# Hours that a GPU, with its share of everything around it, runs between unexpected interruptions: Llama 3 405B had 419
# in 54 days on 16,384 H100s (arXiv 2407.21783, section 3.3.4).
GPU_HOURS_BETWEEN_FAILURES = 16384 * 54 * 24 / 419
CHECKPOINT_BYTES = 12.0  # a weight: float32, and two moments
HOST_COPY = 20e9  # bytes/s from a GPU to its host over PCIe: what an asynchronous checkpoint holds the run up for
RESTART_SECONDS = 600.0  # to notice, replace a node, start processes and warm up


class Prices(BaseModel):
    """See `prices.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: object
    source: str
    jpy_per_kwh: float = Field(ge=0)
    power_usage: float = Field(ge=1)
    jpy_per_gpu_hour: dict[str, float]


def prices(file: Path | None = None) -> Prices:
    """Those of the file, or those that ship.

    Raises:
        KibanError: if the file cannot be read or is not as it must be.
    """
    shipped = resources.files("kiban.planning").joinpath("prices.toml")
    try:
        text = file.read_text(encoding="utf-8") if file else shipped.read_text(encoding="utf-8")
        return Prices(**tomllib.loads(text))
    except OSError as error:
        raise KibanError(f"{file}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KibanError(f"{file}: not TOML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise KibanError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


@dataclass(frozen=True)
class Running:
    """What a run of so many tokens takes, with failures."""

    days: float  # from the first step to the last, lost time included
    gpu_hours: float
    failures: float  # expected
    checkpoint_seconds: float  # that the run stands still for each
    checkpoint_interval_s: float  # the best
    goodput: float  # share of the time that ends up in the model
    megawatt_hours: float  # at most: every GPU's share of a server at its maximum
    megawatts: float
    jpy: float
    jpy_energy: float  # within it


def run_of(
    shape: Shape,
    gpu: GPU,
    gpus: int,
    tokens: float,
    tokens_per_s: float,
    jpy_per_gpu_hour: float,
    costs: Prices,
    storage: float,
) -> Running:
    """`tokens_per_s` of the whole cluster while it runs; `storage` in bytes/s.

    The interval between checkpoints is Daly's (Future Gener. Comput. Syst. 22:303, 2006, equation 37; Young, 1974, to
    first order). The share of time lost is what checkpoints take, and for each failure half an interval and a restart.
    """
    total = CHECKPOINT_BYTES * shape.total
    between = GPU_HOURS_BETWEEN_FAILURES * 3600 / gpus
    pause = total / gpus / HOST_COPY
    interval = daly(pause, between)
    interval = max(interval, total / storage)  # the one before must be written
    restart = RESTART_SECONDS + total / storage
    lost = pause / (interval + pause) + (interval / 2 + restart) / between
    goodput = 1 / (1 + lost)
    seconds = tokens / tokens_per_s / goodput
    hours = gpus * seconds / 3600
    megawatts = gpus * gpu.system_watts * costs.power_usage / 1e6
    energy = megawatts * seconds / 3600
    return Running(
        days=seconds / 86400,
        gpu_hours=hours,
        failures=seconds / between,
        checkpoint_seconds=pause,
        checkpoint_interval_s=interval,
        goodput=goodput,
        megawatt_hours=energy,
        megawatts=megawatts,
        jpy=hours * jpy_per_gpu_hour,
        jpy_energy=energy * 1e3 * costs.jpy_per_kwh,
    )


def daly(pause: float, between: float) -> float:
    """Seconds of work between checkpoints that lose the least time: a checkpoint takes `pause` seconds, a failure comes
    every `between`."""
    if pause >= 2 * between:
        return between
    x = math.sqrt(pause / (2 * between))
    return math.sqrt(2 * pause * between) * (1 + x / 3 + x * x / 9) - pause
