"""Checkpoints of a run: whole or absent, on disk before they count, each with its position and its data's fingerprint.

step-00000120/ model.safetensors  optimiser.safetensors  state.json (with the digests of the two; written last)
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import fsync_folder, read_json, write_json
from kiban.artifacts.hashing import sha256_file

KEEP = 2
STATE = "state.json"


@dataclass(frozen=True)
class Position:
    """How far a run is: `step` optimiser steps are done, in `seconds`. `fingerprint` says on which data."""

    step: int
    seconds: float
    matmul_rate: float
    fingerprint: str
    loads: list[list[int]] | None = None


def save(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Raises OSError (disk full): then the checkpoints before are untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{position.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(_whole(model.state_dict()), temporary / "model.safetensors")
        save_file(_moments(model, optimiser), temporary / "optimiser.safetensors")
        digests = {}
        for name in ("model.safetensors", "optimiser.safetensors"):
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
            digests[name] = sha256_file(temporary / name)
        write_json(temporary / STATE, {"position": asdict(position), "sha256": digests})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _folders(folder)[:-KEEP]:
        shutil.rmtree(old)


def restore(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, fingerprint: str, say: Callable[[str], None]
) -> Position | None:
    """Loads the newest whole checkpoint; None if there is none. One that is damaged is named and passed over.

    Raises:
        KibanError: if the newest whole one was made on other data.
    """
    for path in reversed(_folders(folder)):
        try:
            state = read_json(path / STATE)
            for name, digest in state["sha256"].items():
                if sha256_file(path / name) != digest:
                    raise KibanError(f"{path / name}: the bytes are not those that were saved")
        except (KibanError, KeyError, OSError) as error:
            say(f"checkpoint {path.name} is damaged ({error}); going back to the one before")
            continue
        position = Position(**state["position"])
        if position.fingerprint != fingerprint:
            raise KibanError(
                f"{path}: made with other data or settings than this run has; delete {folder} to start anew, "
                "or give the run a folder of its own"
            )
        model.load_state_dict(load_file(path / "model.safetensors"))
        _restore_moments(model, optimiser, load_file(path / "optimiser.safetensors"))
        return position
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.exists() else []


def _whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    named = {}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            named[f"{name}/{key}"] = value.detach().contiguous()
    return named


def _restore_moments(model: nn.Module, optimiser: torch.optim.Optimizer, named: dict[str, Tensor]) -> None:
    state: dict[Any, dict[str, Tensor]] = {}
    parameters = dict(model.named_parameters())
    for key, value in named.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        state.setdefault(parameter, {})[moment] = value if moment == "step" else value.to(parameter.device)
    optimiser.state.update(state)
