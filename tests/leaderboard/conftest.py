from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboard import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "board.db")) as opened:
        yield opened
