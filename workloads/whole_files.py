"""Files that are there in whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import safetensors
from torch import Tensor


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file of its own beside `path`, then takes its name in one atomic step; makes the folder.

    A killed process leaves no half file under the name, and of two that write it the later one wins. Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        Path(temporary).unlink(missing_ok=True)
        raise


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and what is told about them, from a safetensors file; nothing in it is run.

    Raises `OSError` or `safetensors.SafetensorError` where there is no whole file.
    """
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no mapping
