"""What is found once and kept in the user's cache: small results in JSON files, named by all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from pydantic import TypeAdapter, ValidationError

from .errors import InputError
from .whole_files import write_whole

VARIABLE = "SHRINKBOARD_CACHE"

T = TypeVar("T")


def cache_folder() -> Path:
    """Where this user's networks and levels are kept: `SHRINKBOARD_CACHE`, else the system's folder for caches."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("shrinkboard")).expanduser()


def kept(what: str, depends_on: Mapping[str, Any], kind: TypeAdapter[T], find: Callable[[], T]) -> T:
    """The result from the cache; where there is no whole one, it is found and put there.

    `what` names a subfolder, `depends_on` (plain data) what a change of would change the result. Raises `InputError`
    where the cache cannot be written.
    """
    name = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / what / f"{name[:24]}.json"
    try:
        return kind.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        found = find()
    try:
        write_whole(path, kind.dump_json(found))
    except OSError as error:
        raise InputError(f"cache folder {path.parent} cannot be written: {error.strerror}") from error
    return found
