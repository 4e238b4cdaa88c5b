"""A real engine for `scripts/bench_serve.py`: vLLM on a port, started with what the stack's own engine gets.

Knows nothing of gateways. Adapters are left out: what is compared is the way to the base model.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scripts.bench_paths import Way, free_port, started
from serve.engine import START_SECONDS, check, command, environment
from serve.stack import Stack


@contextmanager
def engine(stack: Stack) -> Iterator[Way]:
    """vLLM with the stack's base model and settings, on this machine's port of its own."""
    bare = replace(stack, adapters={})
    model, port = check(bare), free_port()
    words = command(bare, model, {}, Path("-"))
    at = words.index("--uds")
    words[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    with started(words, environment(os.environ), "engine"):
        yield Way("direct", f"http://127.0.0.1:{port}/v1", stack.model).ready(START_SECONDS)
