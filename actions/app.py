"""The HTTP interface of actions: routes and status codes.

Owns how an outcome is said over HTTP. Tokens and sizes are checked before, in auth; what happens
is the worker's.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import exposition
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.types import ASGIApp

from actions.accept import check
from actions.auth import Gate, Tokens
from actions.converge import Forced, Unpin
from actions.metrics import Metrics
from actions.notify import Follower
from actions.outcome import Outcome
from actions.page import page
from actions.payload import Payload
from actions.state import StateError
from actions.status import Answer, Document, answer
from actions.wish import PinWish, unknown_servers
from actions.witness import DOWN_ALERTS, Heard
from actions.worker import Worker
from exporter.config import Config

log = logging.getLogger(__name__)

# Alertmanager cancels a notification after 10 s and posts it anew.
_ANSWER_SECONDS = 7.0


class Rewrite(BaseModel):
    """The body of POST /rewrite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["minimal", "forced"]
    zones: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9._-]+$")], ...],
        Field(min_length=1),  # an empty list is a slip: it would mean all
    ] = ()


_Body = TypeVar("_Body", Payload, Rewrite, PinWish)


@dataclass(frozen=True)
class Parts:
    """What the routes speak with: the parts of the daemon."""

    config: Config
    metrics: Metrics
    worker: Worker
    followers: Sequence[Follower]
    heard: Heard
    status: Callable[[], Document]


def create_app(parts: Parts, tokens: Tokens) -> ASGIApp:
    """Make the app, guarded by tokens."""
    config, worker, followers = parts.config, parts.worker, parts.followers
    app = FastAPI(title="zonerw actions", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(_MalformedError, _malformed)

    @app.post("/webhook")
    async def webhook(request: Request) -> JSONResponse:
        payload = await _parsed(request, Payload)
        ours = [a for a in payload.alerts if a.labels.get("alertname") in DOWN_ALERTS]
        if error := unknown_servers(config, {a.labels.get("server", "") for a in ours}):
            return JSONResponse({"error": error}, 422)
        for alert in ours:
            parts.metrics.webhook_alerts.labels(alert.labels["alertname"], alert.status).inc()
        if not ours:
            return JSONResponse({"ignored": "no alert of ours"})
        parts.heard.note(ours)
        return await _answer(worker.wake("webhook"), followers)

    @app.post("/rewrite")
    async def rewrite(request: Request) -> JSONResponse:
        asked = await _parsed(request, Rewrite)
        if asked.mode == "minimal" and asked.zones:
            return JSONResponse({"error": 'zones: only with mode "forced"'}, 422)
        if asked.mode == "minimal":
            return await _answer(worker.request(None), followers, requested=True)
        run = worker.request_when(lambda: Forced(asked.zones, check(config, asked.zones)))
        return await _answer(run, followers, requested=True)

    @app.put("/pin")
    async def pin(request: Request) -> JSONResponse:
        wish = await _parsed(request, PinWish)
        if error := unknown_servers(config, {wish.server}):
            return JSONResponse({"error": error}, 422)
        by = f"HTTP from {request.client.host}" if request.client else "HTTP"
        wished = wish.pin(by, datetime.now(UTC))
        return await _answer(worker.request(wished), followers, requested=True)

    @app.delete("/pin")
    async def unpin() -> JSONResponse:
        return await _answer(worker.request(Unpin()), followers, requested=True)

    @app.get("/")
    def landing_page() -> HTMLResponse:
        return HTMLResponse(page(parts.status()))

    @app.get("/status")
    def status() -> JSONResponse:
        return _json(parts.status())

    @app.get("/metrics")
    def metrics_page(request: Request) -> Response:
        encode, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encode(parts.metrics.registry), headers={"Content-Type": content_type})

    @app.get("/-/healthy")
    def healthy() -> PlainTextResponse:
        return PlainTextResponse("healthy\n")

    @app.get("/-/ready")
    def ready() -> PlainTextResponse:
        if worker.has_run:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the first run has not ended\n", 503)

    return Gate(app, tokens)


class _MalformedError(Exception):
    """A body that is not what it should be."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, _MalformedError) else 500
    return JSONResponse({"error": str(error)}, status)


async def _parsed(request: Request, model: type[_Body]) -> _Body:
    """Read a body; what is wrong with it is said with the place and what was expected.

    Only JSON that calls itself so: a page in somebody's browser can't send that unasked.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _MalformedError(415, f"Content-Type: {kind!r}; expected application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise _MalformedError(422, "; ".join(map(_said_of, error.errors()))) from error


def _said_of(fault: ErrorDetails) -> str:
    place = ".".join(map(str, ("body", *fault["loc"])))
    if fault["type"] == "value_error":  # one of the configuration's types: it says what it expects
        return f"{place}: expected {fault['ctx']['error']}"
    return f"{place}: {fault['msg']}"


async def _answer(
    run: Future[Outcome], followers: Sequence[Follower], *, requested: bool = False
) -> JSONResponse:
    """Answer in time, with what the run came to or that it goes on.

    A person wants to see every zone, the secondaries too; Alertmanager only whether a retry would
    help, and why.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    ended = asyncio.wrap_future(run)
    ended.add_done_callback(asyncio.Future.exception)  # seen, also when nobody waits any more
    await asyncio.wait({ended}, timeout=_ANSWER_SECONDS)
    if not ended.done():
        return JSONResponse({"goes_on": "the run has not ended yet"}, 202)
    try:
        outcome = ended.result()
    except StateError as error:
        return JSONResponse({"error": f"step state: {error}"}, 503)
    if requested:
        await asyncio.gather(
            *(asyncio.to_thread(follower.wait, deadline) for follower in followers)
        )
        answered = await asyncio.to_thread(_answered, outcome, followers)
    else:
        answered = answer(replace(outcome, zones=outcome.troubles), {})
    return _json(answered, _status(outcome, requested=requested))


def _status(outcome: Outcome, *, requested: bool) -> int:
    if outcome.failed:
        return 503
    if outcome.refused:
        return 422
    return 202 if outcome.judgement.looking and not requested else 200


def _answered(outcome: Outcome, followers: Sequence[Follower]) -> Answer:
    seen = {follower.name: follower.seen() for follower in followers}
    return answer(outcome, seen)


def _json(said: Answer | Document, status: int = 200) -> JSONResponse:
    return JSONResponse(said.model_dump(mode="json", by_alias=True), status)
