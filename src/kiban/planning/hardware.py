"""The GPUs that plans are made for: `hardware.toml`, or a file like it."""

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kiban.artifacts.errors import KibanError

# Which peak of the table products run at. Tensor-wise and block-wise FP8 have the same peak.
PEAK = {"fp16": "bf16", "bf16": "bf16", "fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}


class GPU(BaseModel):
    """Units as at the head of `hardware.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bf16: float = Field(gt=0)
    fp8: float | None = Field(default=None, gt=0)
    fp4: float | None = Field(default=None, gt=0)
    memory: float = Field(gt=0)
    memory_bandwidth: float = Field(gt=0)
    nvlink: float = Field(gt=0)
    network: float = Field(gt=0)
    node: int = Field(gt=0)
    domain: int = Field(gt=0)
    watts: float = Field(gt=0)
    system_watts: float = Field(gt=0)
    architecture: str
    source: str

    def peak(self, precision: str) -> float | None:
        """FLOP/s of products in `precision` (a key of `PEAK`); None if the GPU has none."""
        peak: float | None = getattr(self, PEAK[precision])
        return peak * 1e12 if peak else None


def _shipped() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("kiban.planning").joinpath("hardware.toml").read_text(encoding="utf-8"))


def gpu_of_device(device: str) -> GPU | None:
    """The GPU that a driver calls `device`, such as `NVIDIA H100 80GB HBM3`. None for what `hardware.toml` lacks, among
    it PCIe and NVL cards and slices of a GPU (MIG), which are slower than their namesakes."""
    words = re.split(r"[ -]+", device.lower())
    tables = _shipped()
    key = next((word for word in words if word in tables), None)
    if key is None or {"pcie", "nvl", "mig"} & set(words):
        return None
    return GPU(**tables["a100-40" if key == "a100" and "40gb" in words else key])


def gpu(name: str, file: Path | None = None) -> GPU:
    """The GPU of that name (a table's), looked for in `file` first.

    Raises:
        KibanError: if there is none, or the file is not as it must be.
    """
    tables = _shipped()
    if file is not None:
        try:
            tables |= tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise KibanError(f"{file}: cannot be read ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise KibanError(f"{file}: not TOML ({error})") from None
    key = name.lower()
    if key not in tables:
        raise KibanError(
            f"--gpu {name}: not known; there are {', '.join(tables)}; describe another one in a TOML file, "
            f"[{key}] with {', '.join(GPU.model_fields)}, and give it as --hardware FILE"
        )
    try:
        return GPU(**tables[key])
    except (ValidationError, TypeError) as error:
        said = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        raise KibanError(f"{file}: [{key}] {said}") from None
