"""What our own rooms have logged. asyncio and aiohttp speak of what an earlier test left behind, whenever that is
collected: who counts lines must not count theirs."""

import logging

import pytest

ROOMS = frozenset({"train", "serve", "retrieval", "eval", "scripts"})


def told(caplog: pytest.LogCaptureFixture, level: int = logging.NOTSET) -> list[str]:
    """Every sentence of at least this level, in order."""
    ours = (one for one in caplog.records if one.name.partition(".")[0] in ROOMS)
    return [one.getMessage() for one in ours if one.levelno >= level]
