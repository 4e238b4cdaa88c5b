"""The ways to one server that the benchmarks of serving compare: direct, through our gateway, through LiteLLM's proxy.

Starts and stops them, and sends loads their way; knows nothing of figures. Each is a process of its own behind
`serve.guard`, so nothing outlives the benchmark. Every gateway has its best: one process, as the others on this machine
are the server and the client; no access log, no callbacks, no keys. What is set for LiteLLM is in `LITELLM`.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from retrieval.console import stop_politely
from retrieval.files import FileError
from scripts.bench_stub import MODEL, Timing
from scripts.serving import computed, descendants, resident
from serve.chat import ServeError

ROOT: Final = Path(__file__).parents[1]
START_SECONDS: Final = 120.0
LITELLM: Final[Mapping[str, str]] = {
    # What its pages on production recommend: no .env, errors only, JSON logs (below), one worker a core it may have.
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "NO_DOCS": "True",
    "DISABLE_ADMIN_UI": "True",
    # It asks nobody on the network.
    "LITELLM_TELEMETRY_DISABLED": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # No keys, as on our side; otherwise it does not start.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}
Stack = Mapping[str, Any]
"""What stands in a stack.yaml."""


class BenchError(RuntimeError):
    """A contestant that cannot be measured."""


def measuring(measure: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Measure; what goes wrong is a sentence, and the exit code 1."""
    stop_politely()
    try:
        measure(options)
    except (BenchError, FileError, ServeError) as error:
        sys.exit(str(error))


@dataclass(frozen=True, slots=True)
class Way:
    """Where a load is sent, and whose processor time counts as its cost."""

    name: str
    url: str
    model: str
    pid: int = 0
    """The process that stands between client and server; 0: there is none."""

    @property
    def cpu_seconds(self) -> float:
        """Used until now, by the process and those it started."""
        return sum(map(computed, self._family)) if self.pid else 0.0

    @property
    def memory_mib(self) -> float:
        """In use now."""
        return sum(map(resident, self._family)) if self.pid else 0.0

    @property
    def _family(self) -> set[int]:
        """The process, its children, and theirs."""
        return {self.pid} | descendants(self.pid)

    def ready(self, seconds: float = START_SECONDS) -> "Way":
        """This, when it answers; BenchError when it does not in good time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                with urlopen(f"{self.url}/models", timeout=5):
                    return self
            except (URLError, OSError):
                time.sleep(0.1)
        raise BenchError(f"{self.name} does not answer after {seconds:.0f} s; see out/bench/ for what it said")


@contextmanager
def stub(timing: Timing) -> Iterator[Way]:
    """The server of fixed timing."""
    flags = [word for name, value in asdict(timing).items() for word in (f"--{name}", str(value))]
    port = free_port()
    with started([sys.executable, "-m", "scripts.bench_stub", "--port", str(port), *flags], {}, "stub"):
        yield Way("direct", f"http://127.0.0.1:{port}/v1", MODEL).ready()


@contextmanager
def fulcrum(server: Way, settings: Stack) -> Iterator[Way]:
    """Our gateway; `settings` are the stack's, without model and url."""
    port = free_port()
    stack = {"model": server.model, "url": server.url, "strategies": {"direct": {"kind": "direct"}}, **settings}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "stack.yaml")
        file.write_text(yaml.safe_dump(stack), encoding="utf-8")
        command = [sys.executable, "-m", "serve", "up", str(file), "--port", str(port)]
        with started(command, {}, "fulcrum") as pid:
            yield Way("fulcrum", f"http://127.0.0.1:{port}/v1", "base:none:direct", pid).ready()


@contextmanager
def litellm(server: Way, program: Path) -> Iterator[Way]:
    """LiteLLM's proxy, from an environment of its own."""
    port = free_port()
    model = {"model": f"openai/{server.model}", "api_base": server.url, "api_key": "none"}
    settings = {"set_verbose": False, "json_logs": True, "request_timeout": 600, "telemetry": False, "callbacks": []}
    config = {
        "model_list": [{"model_name": "base", "litellm_params": model}],
        "litellm_settings": settings,
        "router_settings": {"num_retries": 0},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        command = [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        with started([*command, "--num_workers", "1"], LITELLM, "litellm") as pid:
            yield Way("litellm", f"http://127.0.0.1:{port}/v1", "base", pid).ready()


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], name: str) -> Iterator[int]:
    """Its id; its whole family is gone afterwards. What it says is in out/bench/NAME.log."""
    log = ROOT / "out" / "bench" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-")
    guarded = [sys.executable, "-m", "serve.guard", folder, *command]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment)
    with log.open("wb") as said:
        guard = subprocess.Popen(guarded, cwd=ROOT, env=surroundings, stdin=subprocess.PIPE, stdout=said, stderr=said)
    try:
        yield guard.pid
    finally:
        assert guard.stdin
        guard.stdin.close()
        guard.wait()


def load(way: Way, job: Mapping[str, Any]) -> tuple[dict[str, Any], float, float]:
    """What a client of its own heard, the CPU seconds of the gateway meanwhile, and how long that was."""
    given = json.dumps({**job, "url": way.url, "model": way.model})
    cpu, began = way.cpu_seconds, time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench_client", given], capture_output=True, text=True, cwd=ROOT, check=False
    )
    cpu, seconds = way.cpu_seconds - cpu, time.monotonic() - began
    if done.returncode:
        raise BenchError(f"the client of {way.name} failed:\n{done.stderr[-1000:]}")
    heard: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return heard, cpu, seconds


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
