"""Checkpoints of a run: whole or absent, on disk before they count, each saying what run it is of.

step-00000120/ shard-*.safetensors, by torch.distributed.checkpoint  state.json (with their digests; written last)

The weights are `model.<name>`, the optimiser's moments `optimiser.<name>/<moment>`. Shards carry their place in the
whole tensors, so that a run saved under one layout can be resumed under another. Nothing is pickled.
"""

import errno
import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import fsync_folder, read_json, write_json
from kiban.artifacts.hashing import canonical_json, sha256_bytes, sha256_file
from kiban.model.config import ModelConfig
from kiban.model.transformer import Transformer

STATE = "state.json"
MODEL, OPTIMISER = "model.", "optimiser."

# Said whenever a single process saves; it is what we mean.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


@dataclass(frozen=True)
class Position:
    """How far a run is: `step` optimiser steps in `seconds`. `matmul_rate` (FLOP/s) was measured at its start.
    `excluded`: first and last step of each range whose batches left no trace in the weights (see faults.py)."""

    step: int
    seconds: float
    matmul_rate: float
    excluded: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Identity:
    """What must be the same for a run to go on: its settings, its model, the fingerprint of its data, and the digest of
    the checkpoint that it started from, if any."""

    settings: dict[str, Any]
    model: dict[str, Any]
    data: str
    initial: str | None = None


class Checkpoints:
    """Those of one run, in `folder`. The newest `keep` stay, and all that were saved as permanent. Of several ranks,
    which share the folder, each saves and loads what it has: `group` is theirs, for nothing else, and speaks gloo."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        keep: int,
        say: Callable[[str], None],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.folder, self.identity, self.keep, self.say, self.group = folder, identity, keep, say, group
        self._writing: threading.Thread | None = None
        self._failed: BaseException | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, model: nn.Module, optimisers: list[Optimizer], position: Position, permanent: bool = False) -> None:
        """Copies the state, and writes the copy in the background. One that cannot be written (a full disk) is said
        at the next call; those before it stand."""
        try:
            self.wait()
        except OSError as error:
            self.say(f"{error}; the checkpoints before stand, and the next is tried when it is due")
        tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()} | _moments(model, optimisers)
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._writing = threading.Thread(target=self._write, args=(copies, position, permanent))
        self._writing.start()

    def wait(self) -> None:
        """Until the last save is on disk.

        Raises:
            OSError: if it could not be written. Then the checkpoints before are untouched.
        """
        self._settle()
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def restore(self, model: nn.Module, optimisers: list[Optimizer]) -> Position | None:
        """Loads the newest whole checkpoint; None if there is none. One that is damaged is named and passed over.

        Raises:
            KibanError: if it is of another run, naming what differs.
        """
        self._settle()
        path = self.folder / f"step-{step:08d}" if (step := self._agreed(self._newest())) >= 0 else None
        if path is None:
            return None
        state = read_json(path / STATE)
        position, standing = Position(**state["position"]), Identity(**state["identity"])
        _check_same(path, standing, self.identity)
        _load(path, model, optimisers)
        return position

    def whole_model(self, config: ModelConfig) -> Transformer:
        """That of the newest checkpoint, on the CPU, whatever layout saved it."""
        model = Transformer(config)
        model.load_state_dict(read_tensors(_folders(self.folder)[-1], MODEL))
        return model

    def _newest(self) -> int:
        """The step of the newest whole checkpoint; -1 if there is none, or if another rank looks."""
        if self.group is not None and self.group.rank() > 0:
            return -1
        for path in reversed(_folders(self.folder)):
            try:
                state = check(path)
                Identity(**state["identity"])
                return Position(**state["position"]).step
            except (KibanError, KeyError, TypeError, OSError) as error:
                self.say(f"checkpoint {path.name} is damaged and passed over ({error})")
        return -1

    def _agreed(self, number: int) -> int:
        """The largest number over the ranks."""
        if self.group is None:
            return number
        largest = torch.tensor([number])
        dist.all_reduce(largest, dist.ReduceOp.MAX, self.group)
        return int(largest.item())

    def _settle(self) -> None:
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _write(self, tensors: dict[str, Tensor], position: Position, permanent: bool) -> None:
        """Writes under another name, fsyncs, renames; then forgets what need not stay. Of several ranks the first does
        all but the writing of shards."""
        final = self.folder / f"step-{position.step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        first = self.group is None or self.group.rank() == 0
        try:
            failed: OSError | None = None
            if first:
                try:
                    for abandoned in self.folder.glob(".step-*.tmp"):
                        shutil.rmtree(abandoned)
                    temporary.mkdir()
                except OSError as error:
                    failed = error
            if self._agreed(int(failed is not None)):
                raise failed or OSError(errno.EIO, "the first rank could not make the folder")
            writer = HuggingFaceStorageWriter(str(temporary), fqn_to_index_mapping=_Files(), save_distributed=True)
            save(tensors, storage_writer=writer, process_group=self.group, no_dist=self.group is None)
            if not first:
                return
            digests = {path.name: sha256_file(path) for path in temporary.glob("*.safetensors")}
            state = {"position": asdict(position), "identity": asdict(self.identity), "sha256": digests}
            write_json(temporary / STATE, state | {"permanent": permanent})
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            fsync_folder(self.folder)
            for old in [path for path in _folders(self.folder) if not _permanent(path)][: -self.keep]:
                shutil.rmtree(old)
        except BaseException as error:  # whatever it is: nobody sees what is raised in a thread
            if first:
                shutil.rmtree(temporary, ignore_errors=True)
            self._failed = _cause(error, final)


class _Files(dict[str, int]):
    """In which of two files a tensor goes. No rank knows the names of all."""

    def __init__(self) -> None:
        super().__init__({MODEL: 1, OPTIMISER: 2})

    def __missing__(self, name: str) -> int:
        return 1 if name.startswith(MODEL) else 2


def check(path: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint says, once its files are found to be those that were saved.

    Raises:
        KibanError: if they are not.
        OSError: if one is missing.
    """
    state: dict[str, Any] = read_json(path / STATE)
    for name, digest in state["sha256"].items():
        if sha256_file(path / name) != digest:
            raise KibanError(f"{path / name}: the bytes are not those that were saved")
    return state


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin with `prefix`, without it, whole whatever layout saved them."""
    held = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(tensor.size, dtype=tensor.properties.dtype)
        for name, tensor in held.items()
        if name.startswith(prefix) and isinstance(tensor, TensorStorageMetadata)
    }
    load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def digest_of(folder: Path) -> str:
    """Of the configuration and weights that lie in a folder."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    return sha256_bytes(canonical_json({path.name: sha256_file(path) for path in files}))


def _cause(error: BaseException, path: Path) -> BaseException:
    """torch.distributed.checkpoint wraps what happened on each rank. An OSError gets the name of the checkpoint."""
    failures = (
        [failure for failure, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    )
    for failure in failures:
        if isinstance(failure, OSError):
            return OSError(failure.errno, failure.strerror or str(failure), str(path))
    return error


def _permanent(path: Path) -> bool:
    try:
        return bool(read_json(path / STATE).get("permanent"))
    except KibanError:
        return False


def _check_same(path: Path, standing: Identity, identity: Identity) -> None:
    remedy = f"delete {path.parent} to start anew, or give the run a folder of its own"
    if standing.data != identity.data:
        raise KibanError(f"{path}: made on other data than this run has; {remedy}")
    if standing.initial != identity.initial:
        raise KibanError(f"{path}: the run started from other weights than are given now; {remedy}")
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
        f"{OPTIMISER}{names[parameter]}/{key}": value
        for optimiser in optimisers
        for parameter, moments in optimiser.state.items()
        for key, value in moments.items()
    }


def _load(path: Path, model: nn.Module, optimisers: list[Optimizer]) -> None:
    """Into the model and its optimisers, as much as is here."""
    parameters = dict(model.named_parameters())
    holder = {p: optimiser for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]}
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    held = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    moments: list[tuple[nn.Parameter, str, Tensor]] = []
    for key, found in held.items():
        name, _, moment = key.removeprefix(OPTIMISER).rpartition("/")
        if not key.startswith(OPTIMISER) or name not in parameters or not isinstance(found, TensorStorageMetadata):
            continue
        parameter = parameters[name]
        value = (
            torch.zeros_like(parameter, dtype=found.properties.dtype)
            if found.size == parameter.shape
            else torch.zeros(found.size, dtype=found.properties.dtype, device=parameter.device)
        )
        tensors[key] = value
        moments.append((parameter, moment, value))
    load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    for parameter, moment, value in moments:
        holder[parameter].state.setdefault(parameter, {})[moment] = value.detach()
