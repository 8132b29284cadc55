"""The board as a page and an API for this machine's browser: read-only, and nothing leaves the machine."""

from __future__ import annotations

import gzip
import hashlib
import socket
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from . import answers
from ._page import page
from .errors import LeaderboardError, StorageUnavailable, quoted
from .query import Front, Query, parse_latency
from .store import Store

try:
    import uvicorn
    from fastapi import FastAPI, Path, Request, Response
    from fastapi import Query as Parameters
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise LeaderboardError(f"serve needs {error.name}; install it with: pip install 'shrinkboard[web]'") from None

HOST = "127.0.0.1"
_WORTH_ZIPPING = 1000
"""Bytes."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Problem(BaseModel):
    """What was wrong with a request, in one line."""

    error: str


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BoardAsked(_Asked):
    """As the options of `shrinkboard leaderboard`; what is left out is no limit."""

    workload: str | None = None
    target: str | None = Field(None, description="Name, or key with the fingerprint of a machine.")
    strategy: str | None = Field(None, description="One name, or several with commas.")
    study: str | None = None
    max_drop: float | None = Field(None, description="Points of accuracy below the dense network.")
    max_latency: str | None = Field(None, description="Such as 2ms or 500us.")
    where: str | None = Field(None, description="Such as `parameters < 20000 and top1 >= 0.95`.")
    front: Front = "speed"
    pareto: bool = Field(False, description="Only the front of what matches.")
    finals: bool = Field(False, description="Results on the test split instead of those of searches.")
    sort: str | None = Field(None, description="A column; - before it: largest first.")
    limit: int = Field(1000, ge=1, le=answers.MOST_ROWS, description="Rows per track.")


class TrackAsked(_Asked):
    workload: str
    target: str = Field(description="A target key, as `/api/tracks` lists them.")


class StrategiesAsked(TrackAsked):
    strategy: str | None = Field(None, description="Only this one.")


def app(store: Store) -> FastAPI:
    """The web application on a storage: the page at `/`, the API below `/api/`, described in `/api/openapi.json`."""
    problem: dict[int | str, dict[str, Any]] = {
        400: {"model": Problem, "description": "A question without an answer"},
        422: {"model": Problem, "description": "A parameter that is not understood"},
        503: {"model": Problem, "description": "The storage is away; try again"},
    }
    api = FastAPI(
        title="shrinkboard",
        summary="The leaderboard, to be read.",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        responses=problem,
    )
    document, policy = page()
    start = _Ready(document.encode(), "text/html; charset=utf-8")

    def ready(answer: BaseModel) -> _Ready:
        return _Ready(answers.encoded(answer))

    # Ten thousand rows take longer to find than a page should wait for, and change less often than they are asked for.
    @lru_cache(maxsize=8)
    def ready_board(query: Query, mark: Hashable) -> _Ready:
        return ready(answers.board(store, query))

    @lru_cache(maxsize=64)
    def ready_ranking(workload: str, key: str, mark: Hashable) -> _Ready:
        return ready(answers.ranking(store, workload, key))

    @api.get("/", include_in_schema=False)
    def board_page(request: Request) -> Response:
        # Framing is no matter for the policy inside the document, where browsers ignore it.
        return start.to(request, **{"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"})

    @api.get("/api/tracks", response_model=answers.Tracks)
    def tracks(request: Request) -> Response:
        """Every workload and target key that there are results for."""
        return ready(answers.tracks(store)).to(request)

    @api.get("/api/board", response_model=answers.BoardAnswer)
    def board(request: Request, asked: Annotated[BoardAsked, Parameters()]) -> Response:
        """The entries that match: one track per workload and target key, each with its own fronts."""
        fields = asked.model_dump()
        if asked.max_latency is not None:
            fields["max_latency"] = parse_latency(asked.max_latency)
        query = Query(**fields)
        return ready_board(query, store.mark(query)).to(request)

    @api.get(
        "/api/entries/{id}",
        response_model=answers.EntryAnswer,
        responses={404: {"model": Problem, "description": "No such entry"}},
    )
    def entry(request: Request, id: Annotated[str, Path(pattern="^[0-9a-f]{4,16}$")]) -> Response:
        """One entry by its id, or by the first digits of it: plan, costs, and where it comes from."""
        try:
            return ready(answers.entry(store, id)).to(request)
        except StorageUnavailable:
            raise
        except LeaderboardError as error:
            return _problem(404, str(error))

    @api.get("/api/strategies", response_model=answers.Strategies)
    def strategies(request: Request, asked: Annotated[StrategiesAsked, Parameters()]) -> Response:
        """The strategies of one track: what they say of themselves, and which settings were tried."""
        return ready(answers.strategies(store, asked.workload, asked.target, asked.strategy)).to(request)

    @api.get("/api/ranking", response_model=answers.RankingAnswer)
    def ranking(request: Request, asked: Annotated[TrackAsked, Parameters()]) -> Response:
        """The strategies of one track by hypervolume on the test split, where finalists and a benchmark are there."""
        mark = store.mark(Query(workload=asked.workload, target=asked.target)), tuple(b.id for b in store.benchmarks())
        return ready_ranking(asked.workload, asked.target, mark).to(request)

    @api.exception_handler(LeaderboardError)
    def refused(_: Request, error: LeaderboardError) -> Response:
        return _problem(503 if isinstance(error, StorageUnavailable) else 400, str(error))

    @api.exception_handler(RequestValidationError)
    def not_understood(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        unknown = first["type"] == "extra_forbidden"
        return _problem(422, f"{quoted(where)}: {'is not a parameter of this question' if unknown else first['msg']}")

    @api.exception_handler(HTTPException)
    def refused_by_route(_: Request, error: HTTPException) -> Response:
        response = _problem(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    # A page elsewhere could point a name of its own at this machine; the Host header would then hold that name.
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    api.add_middleware(_Guarded)
    return api


def serve(store: Store, port: int, opened: Callable[[str], None] = lambda url: None) -> None:
    """Serves the board on this machine alone until Ctrl-C; `opened` is told the address once it answers.

    Port 0 takes any that is free. Raises `LeaderboardError` where the port is taken.
    """
    # asyncio turns off Nagle's delay of 40 ms only on sockets that name their protocol.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise LeaderboardError(f"port {port} cannot be used ({reason}); give another --port") from None
    with listening, suppress(KeyboardInterrupt):
        opened(f"http://{HOST}:{listening.getsockname()[1]}/")
        config = uvicorn.Config(
            app(store),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listening])


class _Guarded:
    """Answers GET and HEAD only, and puts the headers that keep other sites out on every answer without its own."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._inner(scope, receive, send)
        head = scope["method"] == "HEAD"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in names)]
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        if scope["method"] not in ("GET", "HEAD"):
            refusal = _problem(405, "this server is read-only: GET and HEAD are allowed")
            refusal.headers["Allow"] = "GET, HEAD"
            return await refusal(scope, receive, guarded)
        await self._inner({**scope, "method": "GET"}, receive, guarded)


@dataclass(frozen=True)
class _Ready:
    """An answer as it is sent."""

    content: bytes
    kind: str = "application/json"

    @cached_property
    def tag(self) -> str:
        # Weak: the answer is the same with gzip and without.
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    @cached_property
    def zipped(self) -> bytes:
        return gzip.compress(self.content, 1, mtime=0)

    def to(self, request: Request, **headers: str) -> Response:
        """For a browser, which may keep it if it asks each time whether it still holds."""
        headers |= {"ETag": self.tag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if len(self.content) < _WORTH_ZIPPING or "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.content, headers=headers, media_type=self.kind)
        return Response(self.zipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.kind)


def _problem(status: int, line: str) -> Response:
    return Response(answers.encoded(Problem(error=" ".join(line.split()))), status, media_type="application/json")
