"""Who may ask for what, and how much may be sent: decided before any of the body is looked at.

ASGI middleware, because FastAPI reads and checks a body before its dependencies run.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.config import Actions

# A group of a thousand alerts is half of it.
MAX_BODY_BYTES = 1024 * 1024

Role = Literal["webhook", "operator"]

_OPEN = frozenset({"/metrics", "/-/healthy", "/-/ready"})
_WEBHOOK = frozenset({"/webhook"})

# Hexadecimal of 16 bytes; `openssl rand -hex 32` gives twice that.
_MIN_TOKEN_CHARACTERS = 16


class TokenFileError(Exception):
    """A token file can't be used: which, and what was expected."""


@dataclass(frozen=True)
class Tokens:
    """The secret of each role; None where the program listens on loopback without tokens."""

    by_role: Mapping[Role, bytes] | None

    def role_of(self, authorization: bytes) -> Role | None:
        """Whose token an Authorization header carries, if anybody's; in constant time."""
        given = _token(authorization)
        found: Role | None = None
        for role, token in (self.by_role or {}).items():
            if hmac.compare_digest(given, token):
                found = role
        return found


def read_tokens(actions: Actions) -> Tokens:
    """Read both token files, or neither where none is configured."""
    if actions.webhook_token_file is None or actions.operator_token_file is None:
        return Tokens(None)
    webhook, operator = map(_read_token, (actions.webhook_token_file, actions.operator_token_file))
    if webhook == operator:
        raise TokenFileError(
            f"{actions.webhook_token_file} and {actions.operator_token_file} hold the same token;"
            " expected two different ones"
        )
    return Tokens({"webhook": webhook, "operator": operator})


def read_operator_token(actions: Actions) -> str | None:
    """Read the token that the operator's command shows; None where none is configured."""
    path = actions.operator_token_file
    return _read_token(path).decode("latin-1") if path else None


def _read_token(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise TokenFileError(f"{path}: can't be read: {error.strerror}") from error
    if len(token) < _MIN_TOKEN_CHARACTERS or len(token.split()) != 1:
        raise TokenFileError(
            f"{path}: expected one token of at least {_MIN_TOKEN_CHARACTERS} characters"
        )
    return token


class Gate:
    """Lets a request through to `app` once its sender and its size are known to be right."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or let the app do it (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        body = b""
        if refusal is None and scope["path"] not in _OPEN:  # their body is nobody's business
            try:
                body = await _read_body(receive)
            except _TooLargeError:
                refusal = _answer(413, f"the body is over {MAX_BODY_BYTES} bytes")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = dict(scope["headers"])
        if scope["path"] not in _OPEN and self._tokens.by_role is not None:
            role = self._tokens.role_of(headers.get(b"authorization", b""))
            if role is None:
                return _answer(
                    401, "no token, or an unknown one", {"WWW-Authenticate": 'Basic realm="zonerw"'}
                )
            needed: Role = "webhook" if scope["path"] in _WEBHOOK else "operator"
            if role != needed:
                return _answer(403, f"this needs the {needed}'s token, not the {role}'s")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            return _answer(413, f"the body is over {MAX_BODY_BYTES} bytes")
        return None


class _TooLargeError(Exception):
    """A body without a length turned out to be too large."""


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client has gone
            return b""
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _TooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the app the body that was read already, and after it what comes then."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _token(authorization: bytes) -> bytes:
    """Return a Bearer's token, or the password of a browser's Basic."""
    kind, _, credentials = authorization.partition(b" ")
    if kind.lower() == b"bearer":
        return credentials.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # Closing spares reading what is still on its way.
    return JSONResponse({"error": error}, status, {"Connection": "close", **(headers or {})})
