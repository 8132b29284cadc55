"""Where a user's data lie."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError

VARIABLE = "SHRINKBOARD_DATA"


def data_root(data_dir: Path | None, what: str) -> Path:
    """The data folder: the one given, else that of `SHRINKBOARD_DATA`; `what` names the data set in the error."""
    given = str(data_dir) if data_dir is not None else os.environ.get(VARIABLE, "")
    if not given:
        raise InputError(f"{what}: no data folder; give --data-dir or set {VARIABLE} to the folder that holds it")
    root = Path(given).expanduser()
    if not root.is_dir():
        raise InputError(f"{what}: the data folder {root} does not exist; mend --data-dir or {VARIABLE}")
    return root
