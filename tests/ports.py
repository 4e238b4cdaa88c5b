"""Ports of this machine that are kept from others: one that was free a moment ago may be somebody else's by now."""

import socket


def held() -> socket.socket:
    """A port at which nobody answers, and that nobody else is given while this is open. Whoever is told of its number,
    and reuses addresses as servers do, may still listen there."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


def number_of(place: socket.socket) -> int:
    return int(place.getsockname()[1])
