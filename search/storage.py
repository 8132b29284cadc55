"""Optuna's own tables, which lie in the database of the board."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy import exc

from leaderboard import POSTGRES, StorageUnavailable, Store

from .patience import first_line


@contextmanager
def optuna_storage(store: Store) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's view of a store's database; what finds it away, and does not wait, ends with `StorageUnavailable`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = _opened(store.url)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (StorageInternalError, exc.OperationalError, exc.InterfaceError) as error:
        raise StorageUnavailable(f"storage {store.name}: {first_line(error)}") from error


def _opened(url: str) -> optuna.storages.RDBStorage:
    # Connections that a database has cut are made anew; of drivers that make the tables at once one is refused.
    options: dict[str, Any] = {"connect_args": {"timeout": 60}}
    if not url.startswith("sqlite"):
        options = {"connect_args": POSTGRES, "pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except (exc.IntegrityError, exc.ProgrammingError, exc.OperationalError, StorageInternalError):
        time.sleep(1.0)
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
