"""An HTTP session: connections are kept for the next call, and one to a machine that is gone breaks within a minute.

Knows nothing of what is said over it.
"""

import socket
from pathlib import Path
from typing import Any, Final

import aiohttp

KEEP_ALIVE: Final = 3.0
"""Seconds an idle connection is kept: less than vLLM keeps it, which would otherwise hang up on a question."""
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
