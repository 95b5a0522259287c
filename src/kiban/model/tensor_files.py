"""Safetensors files, with errors for people: written so that they are on disk, read one tensor at a time."""

import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kiban.artifacts.errors import KibanError


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, fsynced. The tensors lie on the CPU, each in memory of its own.

    Raises:
        OSError: if it cannot be written (a full disk); safetensors wraps that in an error of its own.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # transformers refuses a file without it
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    with path.open("rb") as file:
        os.fsync(file.fileno())


class TensorFiles:
    """The tensors of some files, by name. Opening reads the headers alone; `read` reads one tensor.

    Raises:
        KibanError: if a file is missing, unreadable or cut off.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._holders: dict[str, tuple[Path, Any]] = {}
        for path in paths:
            if not path.is_file():
                raise KibanError(f"{path}: missing; copy the whole folder again")
            try:
                opened = safe_open(str(path), framework="pt")
            except SafetensorError as error:
                raise KibanError(f"{path}: no whole safetensors file ({error}); copy it again") from None
            except OSError as error:
                raise KibanError(f"{path}: cannot be read ({error}); mend that and try again") from None
            for name in opened.keys():  # noqa: SIM118
                self._holders[name] = (path, opened)

    @property
    def names(self) -> set[str]:
        return set(self._holders)

    def __contains__(self, name: str) -> bool:
        return name in self._holders

    def path(self, name: str) -> Path:
        return self._holders[name][0]

    def shape(self, name: str) -> list[int]:
        return list(self._holders[name][1].get_slice(name).get_shape())

    def kind(self, name: str) -> str:
        """As safetensors writes it: F32, BF16, F8_E4M3, ..."""
        return str(self._holders[name][1].get_slice(name).get_dtype())

    def read(self, name: str) -> Tensor:
        path, opened = self._holders[name]
        try:
            tensor: Tensor = opened.get_tensor(name)
        except SafetensorError as error:
            raise KibanError(f"{path}: {name} cannot be read ({error}); copy the file again") from None
        return tensor
