"""`serve deploy`: the stack's engine as an application of Ray Serve LLM, with replicas on as many machines as it has.

Ray starts the replicas, starts them again when they die, scales them and shares requests out among them; the gateway
asks them like any server with a `url`. Writes a file and copies of the adapters; starts nothing, and needs no Ray.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic_core import to_jsonable_python

from retrieval.files import read_yaml, write_atomically
from serve.adapters import stage
from serve.chat import ServeError
from serve.engine import QUIET, check, engine_arguments, machine_environment, on_cpu
from serve.stack import Stack

FILE: Final = Path(__file__).parents[1] / "out" / "deploy.yaml"
PORT: Final = 8001
"""The gateway's own is 8000."""
URL: Final = f"http://127.0.0.1:{PORT}/v1"
BUSY: Final = 64
"""Requests under way for each replica, from which on Ray starts another. Ray's default of 10^9 would never."""
OWN: Final = ("model", "served_model_name")
"""What Ray says to vLLM itself, from `model_loading_config`."""

_HEAD: Final = """\
# An application of Ray Serve LLM, written by `python -m serve deploy {stack}`.
# On every node: this project installed (make setup, make ray), and the folders named here under the same paths.
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many engines there are: as many as requests ask for, between these."""

    least: int = 1
    most: int = 1


def deploy(path: Path, out: Path, replicas: Bounds) -> str:
    """Write the application of a stack, when nothing of it is to be refused; give what to do next."""
    stack = Stack.load(path)
    # With a `url`, a stack's model is a name and stays as it is written: so the gateway's stack has one line more.
    name = read_yaml(path, Stack).model
    if problems := list(_problems(stack, name)):
        raise ServeError("\n".join(problems))
    check(stack)
    # A replica that starts tomorrow has the weights of today, and other weights are another application.
    copies = out.resolve().with_name(f"{out.name}.adapters")
    homes = {adapter: stage(adapter, folder, copies) for adapter, folder in stack.adapters.items()}
    written = application(stack, name, homes, replicas)
    write_atomically(out, _HEAD.format(stack=path) + yaml.safe_dump(written, sort_keys=False, width=120))
    return (
        f"{out} is written; start it with `RAY_USAGE_STATS_ENABLED=0 serve run {out}`, then `python -m serve up` with "
        f"a copy of {path} that has the line `url: {URL}` too"
    )


def application(stack: Stack, name: str, homes: Mapping[str, Path], replicas: Bounds) -> dict[str, Any]:
    """What `serve run` reads, for this stack's model under this name; `homes` are the adapters' copies."""
    engine = {
        "model_loading_config": {"model_id": name, "model_source": stack.model},
        "engine_kwargs": keywords(engine_arguments(stack, homes), stack.where("engine", "arguments")),
        "deployment_config": {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": BUSY,
            },
        },
    }
    if on_cpu():
        engine["accelerator_config"] = {"kind": "cpu"}
        engine["deployment_config"]["ray_actor_options"] = {"num_cpus": 0}  # beside the core of its bundle
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": PORT},
        "applications": [
            {
                "name": "fulcrum",
                "route_prefix": "/",
                "import_path": "ray.serve.llm:build_openai_app",
                "runtime_env": {"env_vars": QUIET | machine_environment()},
                "args": {
                    "llm_configs": [engine],
                    "ingress_cls_config": {
                        "ingress_cls": "serve.ingress:Ingress",
                        "ingress_extra_kwargs": {"adapters": list(homes)},
                    },
                },
            }
        ],
    }


def keywords(arguments: Sequence[str], where: str) -> dict[str, Any]:
    """What these arguments of vLLM's server set, by name, as vLLM's own parser reads them.

    ServeError for what it or Ray does not take: only `engine.arguments`, written at `where`, can have that.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs, make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    try:
        usual, given = vars(parser.parse_args([])), vars(parser.parse_args(list(arguments)))
    except SystemExit:
        raise ServeError(f"{where}: engine.arguments: vLLM does not take them; it says why above") from None
    named = {name: value for name, value in given.items() if value != usual[name] and name not in OWN}
    taken = {field.name for kind in (AsyncEngineArgs, FrontendArgs) for field in fields(kind)}
    if unknown := ", ".join(sorted(named.keys() - taken)):
        raise ServeError(f"{where}: engine.arguments: Ray Serve LLM has no place for {unknown}; leave them out")
    return {name: to_jsonable_python(value) for name, value in named.items()}


def _problems(stack: Stack, name: str) -> Iterator[str]:
    """What Ray has no place for."""
    if stack.url:
        yield f"{stack.where('url')}: url: this stack asks a server that runs already; there is nothing to deploy"
    if ":" in name or name in stack.adapters:
        yield f"{stack.where('model')}: model: Ray takes no name with a `:` or of an adapter; move the folder"
    if stack.adapter_folder:
        where = stack.where("adapter_folder")
        yield f"{where}: adapter_folder: replicas have the adapters that they start with; name those in `adapters`"
    if stack.engine.ray:
        where = stack.where("engine", "ray")
        yield f"{where}: engine.ray: it places the engines of an evaluation; leave it out, and see --replicas"
    if stack.engine.data_parallel_size > 1:
        where = stack.where("engine", "data_parallel_size")
        yield f"{where}: engine.data_parallel_size: copies of the model are replicas here; leave it out, see --replicas"
