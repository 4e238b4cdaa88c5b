"""Who gets in: requests from this machine's own programs and pages, with a key where keys are wanted.

ASGI, in front of every route. Knows nothing of what is behind it.
"""

import uuid
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.asked import Refusal
from serve.keys import Keys

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN: Final = frozenset({"/", "/healthz", "/readyz"})
"""What is told without a key: nothing that anybody asked or owns."""


class Door:
    """Turns away other hosts' names, other sites' pages and unknown keys; gives each request its id.

    A browser that is lured to a name that points at this machine sends that name as `Host`; a page of another site
    sends its own address as `Origin`. Neither is anybody whom a server without keys should answer.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["id"], scope["key"] = uuid.uuid4().hex, ""
        named = (b"x-request-id", scope["id"].encode())

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), named]
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
        except Refusal as refusal:
            await JSONResponse(refusal.body, refusal.status, _asking_for_a_key(refusal))(scope, receive, with_id)
            return
        await self._app(scope, receive, with_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _name(host) not in LOOPBACK:
            raise Refusal(421, f"this server is not {host!r}; call it as 127.0.0.1")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(403, f"pages of {origin} may not call this server")
        if self._keys is not None and scope["path"] not in OPEN:
            kind, _, key = headers.get("authorization", "").partition(" ")
            owner = self._keys.owner(key.strip()) if kind.lower() == "bearer" else None
            if owner is None:
                raise Refusal(401, "a key is needed: send `Authorization: Bearer KEY`", code="invalid_api_key")
            scope["key"] = owner


@lru_cache(maxsize=64)
def _name(host: str) -> str | None:
    """Without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _asking_for_a_key(refusal: Refusal) -> dict[str, str]:
    return {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
