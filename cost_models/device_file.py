"""A device as a TOML file, read into the model that says what stands in it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from workloads import InputError

DeviceModel = TypeVar("DeviceModel", bound=BaseModel)


def read_device_file(path: Path, model: type[DeviceModel], example: str) -> DeviceModel:
    """The device that the file describes; raises `InputError` with one line where it is missing or damaged.

    `example` tells where a good file can be seen.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"device file {path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"device file {path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        told = first["msg"].removeprefix("Value error, ")
        raise InputError(f"device file {path}: {place}: {told}; see {example}") from error
