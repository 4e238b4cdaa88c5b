"""An HTTP session: connections are kept for the next call, and one to a machine that is gone breaks within a minute.

Knows nothing of what is said over it.
"""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiohttp

KEEP_ALIVE: Final = 3.0
"""Seconds an idle connection is kept: less than vLLM keeps it, which would otherwise hang up on a question."""
END: Final = 1.0
"""Seconds for the end of a stream to come after its last event: it is under way, or never comes."""
SILENT: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""A machine without power says nothing: one that has not even acknowledged for so many seconds (the last in ms) has
none. One that computes an answer does acknowledge, however long that takes."""


def opened(door: Path | None, key: str | None, connect: float) -> aiohttp.ClientSession:
    """A session over a Unix socket, or over TCP; to be made inside the event loop that uses it.

    `connect` is in how many seconds a connection must be there.
    """
    kept: dict[str, Any] = {"limit": 0, "keepalive_timeout": KEEP_ALIVE}
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(door), **kept)
        if door
        else aiohttp.TCPConnector(**kept, socket_factory=watched),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        read_bufsize=2**20,
    )


def watched(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket of this address that notices."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in SILENT.items():
        made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


async def read_to_the_end(content: aiohttp.StreamReader) -> None:
    """Hear the end of the body, which servers send after their last event: only then can the connection be kept."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END):
            while not content.at_eof():
                await content.readany()
