"""What several rooms' tests share: a dense network trained once, and a cache of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from leaderboard import definitions
from workloads import Dense, dense, workload

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Dense networks of the tests go to a folder of their own, also in processes that tests start."""
    before = os.environ.get("SHRINKBOARD_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SHRINKBOARD_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SHRINKBOARD_CACHE"]
    else:
        os.environ["SHRINKBOARD_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def own_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rankings of the tests are held against definitions that they freeze themselves, not against the shipped ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "_SHIPPED", tmp_path_factory.mktemp("benchmarks"))
        yield


@pytest.fixture(scope="session")
def digits(own_cache: Path) -> Dense:
    """The trained dense network of `digits/cnn`, seed 0."""
    return dense(workload("digits/cnn"), seed=0)


@pytest.fixture
def postgres() -> str:
    """URL of a PostgreSQL database that a test may fill."""
    url = os.environ.get("SHRINKBOARD_TEST_POSTGRES")
    if url is None:
        pytest.skip("needs SHRINKBOARD_TEST_POSTGRES, the URL of an empty PostgreSQL database")
    return url
