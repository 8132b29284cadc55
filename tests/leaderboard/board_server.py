"""A server of its own for a test: the command, as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import leaderboard

_HOME = Path(leaderboard.__file__).parent.parent


def serve_command(storage: str, path: Path = _HOME) -> subprocess.CompletedProcess[str]:
    """What the command says where it does not come to serve; modules in `path` stand before all others."""
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{_HOME}"}
    command = [sys.executable, "-m", "shrinkboard", "serve", "--port", "0", "--storage", storage]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@contextmanager
def serving(storage: str) -> Iterator[str]:
    """Its address, such as `http://127.0.0.1:41234`; it must end well on Ctrl-C."""
    command = [sys.executable, "-m", "shrinkboard", "serve", "--port", "0", "--storage", storage]
    environment = os.environ | {"PYTHONPATH": str(_HOME), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as server:
        assert server.stdout and server.stderr
        try:
            line = server.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + server.stderr.read()
            yield found[0]
        finally:
            server.send_signal(signal.SIGINT)
            complaints = server.stderr.read()
            assert (server.wait(20), complaints) == (0, "")


def asked(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name, and body."""
    request = Request(url, method=method, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def told(url: str) -> Any:
    """The JSON of an answer."""
    return json.loads(asked(url)[2])
