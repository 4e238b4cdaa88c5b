"""A real engine for the benchmarks: vLLM on a port, started with what the stack's own engine gets.

Knows nothing of gateways, or of what is measured.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts.bench_paths import Way, free_port, started
from serve.engine import START_SECONDS, check, command, environment
from serve.stack import Stack


@contextmanager
def engine(stack: Stack, name: str = "direct", besides: Mapping[str, str] | None = None) -> Iterator[Way]:
    """vLLM with the stack's model, adapters and settings; `besides` is set in its environment.

    Adapters are loaded from where they lie: nothing here replaces one.
    """
    model, port = check(stack), free_port()
    words = command(stack, model, stack.adapters, Path("-"))
    at = words.index("--uds")
    words[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    with started(words, {**environment(os.environ), **(besides or {})}, f"engine, {name}"):
        yield Way(name, f"http://127.0.0.1:{port}/v1", stack.model).ready(START_SECONDS)
