"""Ports of this machine that are kept from others: one that was free a moment ago may be somebody else's by now."""

import socket

from serve.engine import held_port


def held() -> socket.socket:
    """One at which nobody answers, until somebody is told of its number."""
    return held_port("127.0.0.1")


def number_of(place: socket.socket) -> int:
    return int(place.getsockname()[1])
