"""`import shrinkboard as sb`: every public name is there, importing it is light, and the README's Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import shrinkboard as sb

ROOT = Path(sb.__file__).parent


@pytest.mark.parametrize("name", sb.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(sb, name) is not None
    assert name in dir(sb)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = sb.nothing_of_ours


def test_importing_it_imports_no_room() -> None:
    rooms = "('workloads', 'strategies', 'cost_models', 'leaderboard', 'search', 'torch')"
    code = f"import sys, shrinkboard; print([name for name in {rooms} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert told.stdout.strip() == "[]", told.stderr


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
    )
    assert told.returncode == 0, told.stderr
    assert "conv1" in told.stdout
