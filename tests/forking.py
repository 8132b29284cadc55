"""The command in processes of its own, forked from one that has read the heavy libraries already.

`python -m shrinkboard` takes seconds to read them, again for every command. A fork has its own folder, environment,
outputs and exit code as well, and ends as a process does.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import shrinkboard

ROOT = Path(shrinkboard.__file__).parent
_SECONDS = 240.0


def forked(
    folder: Path, arguments: tuple[str, ...], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `python -m shrinkboard ARGUMENTS` does in that folder and environment."""
    with tempfile.TemporaryDirectory() as place:
        outputs = [str(Path(place) / name) for name in ("out", "err")]
        asked = {"folder": str(folder), "arguments": arguments, "environment": dict(environment), "outputs": outputs}
        origin = _origin()
        assert origin.stdin is not None and origin.stdout is not None
        origin.stdin.write(json.dumps(asked) + "\n")
        origin.stdin.flush()
        if not select.select([origin.stdout], [], [], _SECONDS)[0]:
            origin.kill()
            _origin.cache_clear()
            raise TimeoutError(f"shrinkboard {' '.join(arguments)} took more than {_SECONDS:g} s")
        code = int(origin.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(output).read_text() for output in outputs))


@cache
def _origin() -> subprocess.Popen[str]:
    """The process that forks; it ends when its input does."""
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.forking"],
        cwd=ROOT,
        # Without the thread that pyarrow would begin, which pandas brings along.
        env=os.environ | {"PYTHONPATH": str(ROOT), "JE_ARROW_MALLOC_CONF": "background_thread:false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(started.communicate)
    return started


def _serve() -> None:
    importlib.import_module("search.campaign")
    # A fork has none of the threads of its origin, and waits for ever for what they hold.
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(**asked)
            shrinkboard.main()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(folder: str, arguments: list[str], environment: dict[str, str], outputs: list[str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = ["shrinkboard", *arguments]
    for number, place in enumerate([os.devnull, *outputs]):
        file = os.open(place, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":
    _serve()
