"""Checkpoints of a run: whole or absent, on disk before they count, each saying what run it is of.

step-00000120/ model.safetensors  optimiser.safetensors  state.json (with the digests of the two; written last)
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import fsync_folder, read_json, write_json
from kiban.artifacts.hashing import sha256_file

KEEP = 2
STATE = "state.json"


@dataclass(frozen=True)
class Position:
    """How far a run is: `step` optimiser steps in `seconds`. `matmul_rate` (FLOP/s) was measured at its start."""

    step: int
    seconds: float
    matmul_rate: float


@dataclass(frozen=True)
class Identity:
    """What must be the same for a run to go on: its settings, its model, and the fingerprint of its data."""

    settings: dict[str, Any]
    model: dict[str, Any]
    data: str


def save(folder: Path, model: nn.Module, optimisers: list[Optimizer], position: Position, identity: Identity) -> None:
    """Writes under another name, fsyncs, renames; then forgets all but the newest KEEP.

    Raises:
        OSError: if it cannot be written (a full disk). Then the checkpoints before are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(".step-*.tmp"):
        shutil.rmtree(abandoned)
    final = folder / f"step-{position.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    temporary.mkdir()
    try:
        write_tensors(temporary / "model.safetensors", model.state_dict())
        write_tensors(temporary / "optimiser.safetensors", _moments(model, optimisers))
        digests = {path.name: sha256_file(path) for path in temporary.glob("*.safetensors")}
        state = {"position": asdict(position), "identity": asdict(identity), "sha256": digests}
        write_json(temporary / STATE, state)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _folders(folder)[:-KEEP]:
        shutil.rmtree(old)


def restore(
    folder: Path, model: nn.Module, optimisers: list[Optimizer], identity: Identity, say: Callable[[str], None]
) -> Position | None:
    """Loads the newest whole checkpoint; None if there is none. One that is damaged is named and passed over.

    Raises:
        KibanError: if it is of another run, naming what differs.
    """
    for path in reversed(_folders(folder)):
        try:
            state = read_json(path / STATE)
            for name, digest in state["sha256"].items():
                if sha256_file(path / name) != digest:
                    raise KibanError(f"{name}: the bytes are not those that were saved")
            position, standing = Position(**state["position"]), Identity(**state["identity"])
        except (KibanError, KeyError, TypeError, OSError) as error:
            say(f"checkpoint {path.name} is damaged and passed over ({error})")
            continue
        _check_same(path, standing, identity)
        model.load_state_dict(load_file(path / "model.safetensors"))
        _restore_moments(model, optimisers, load_file(path / "optimiser.safetensors"))
        return position
    return None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, fsynced. Raises OSError as other writers do (safetensors wraps it in an error of its own)."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check_same(path: Path, standing: Identity, identity: Identity) -> None:
    remedy = f"delete {path.parent} to start anew, or give the run a folder of its own"
    if standing.data != identity.data:
        raise KibanError(f"{path}: made on other data than this run has; {remedy}")
    for what, before, now in (
        ("settings", standing.settings, identity.settings),
        ("model", standing.model, identity.model),
    ):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                raise KibanError(
                    f"{path}: made with other {what}: {key} was {before.get(key)} and is {now.get(key)}; {remedy}"
                )


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.exists() else []


def _moments(model: nn.Module, optimisers: list[Optimizer]) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for optimiser in optimisers
        for parameter, moments in optimiser.state.items()
        for key, value in moments.items()
    }


def _restore_moments(model: nn.Module, optimisers: list[Optimizer], named: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    holder = {p: optimiser for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]}
    for key, value in named.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        holder[parameter].state.setdefault(parameter, {})[moment] = value.to(parameter.device)
