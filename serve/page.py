"""The page at `/`, on which combinations answer side by side, and the route by which it tells what people think.

One file without any other resource. Knows nothing of models: the page asks the public routes like anybody else.
"""

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve.asked import Refusal, read
from serve.capture import Capture, Feedback
from serve.visit import Gone, body_of

FEEDBACK_BYTES: Final = 256 << 10
"""The longest body of a feedback; its fields have limits of their own."""
MOMENTS: Final = 10
"""Of 20 ms, after which an id is unknown."""

PAGE: Final = Path(__file__).with_suffix(".html").read_bytes()


def policy(page: bytes) -> str:
    """A Content-Security-Policy: this page's own style and script, and nothing else, whatever it is made to show."""
    inline = {tag: re.search(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), page, re.DOTALL) for tag in _INLINE}
    digests = {
        tag: base64.b64encode(hashlib.sha256(found[1]).digest()).decode() for tag, found in inline.items() if found
    }
    allowed = "; ".join(f"{tag}-src 'sha256-{digest}'" for tag, digest in digests.items())
    return f"default-src 'none'; {allowed}; connect-src 'self'; img-src data:; {_NOTHING_ELSE}"


_INLINE: Final = ("script", "style")
_NOTHING_ELSE: Final = (
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)


def routes(capture: Capture | None) -> list[BaseRoute]:
    """The page, which offers to rate answers where they are kept."""
    page = PAGE.replace(b'data-feedback="off"', b'data-feedback="on"') if capture else PAGE
    headers = {
        "content-security-policy": policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def show(_: Request) -> Response:
        return Response(page, headers=headers, media_type="text/html")

    async def hear(request: Request) -> Response:
        if capture is None:
            raise Refusal(404, "nothing is captured here, so there is nothing to rate; the stack names no `capture:`")
        try:
            feedback = read(Feedback, await body_of(request.receive, request.scope, FEEDBACK_BYTES))
            await _noted(capture, feedback)
            capture.hear(feedback)
        except Gone:
            return Response(status_code=499)
        return JSONResponse({"id": feedback.id, "object": "feedback"})

    return [Route("/", show), Route("/v1/feedback", hear, methods=["POST"])]


async def _noted(capture: Capture, feedback: Feedback) -> None:
    """An answer is with its reader a moment before the gateway has noted it: a program can be as quick as that."""
    for _ in range(MOMENTS):
        if capture.knows(feedback):
            return
        await asyncio.sleep(0.02)
