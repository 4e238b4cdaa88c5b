"""What can be said of the engine without starting one; the rest is in test_serve_live.py."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serve.chat import ServeError
from serve.engine import Engine, check, command, environment, last_words
from serve.stack import EngineSettings, Stack
from serve.strategies.prompted import Prompted
from tests.tiny import make_adapter, make_model

DIRECT = {"direct": Prompted(kind="direct")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("made") / "model")


def stack(folder: Path, model: object) -> Stack:
    (folder / "stack.yaml").write_text(
        f"model: {model}\nadapters:\n  house: house\nstrategies: {{direct: {{kind: direct}}}}\n"
    )
    return Stack.load(folder / "stack.yaml")


def test_a_model_and_an_adapter_that_fit_pass(tmp_path: Path, model: Path) -> None:
    make_adapter(tmp_path / "house", model)

    assert check(stack(tmp_path, model)) == model


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda at: (at / "config.json").unlink(), "it has no config.json"),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), "has no *.safetensors weights"),
    "no template": (lambda at: (at / "tokenizer_config.json").write_text("{}"), "has no chat template"),
}


@pytest.mark.parametrize(("spoil", "sentence"), SPOILT.values(), ids=SPOILT)
def test_a_model_folder_that_cannot_be_served_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(make_model(tmp_path / "model"))

    with pytest.raises(ServeError, match=r"stack\.yaml:1: model: ") as caught:
        check(stack(tmp_path, "model"))

    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("./nowhere", "there is no folder"), ("nobody/nothing", "python scripts/fetch.py nobody/nothing")],
)
def test_a_model_that_is_not_here_is_refused_with_its_line(tmp_path: Path, model: str, sentence: str) -> None:
    with pytest.raises(ServeError, match=r"stack\.yaml:1: model: ") as caught:
        check(stack(tmp_path, model))

    assert sentence in str(caught.value)


def test_all_problems_are_told_at_once_and_nothing_is_started(tmp_path: Path, model: Path) -> None:
    broken = replace(
        stack(tmp_path, model),
        strategies={"shown": Prompted(kind="fewshot", demonstrations=tmp_path / "none.jsonl")},
    )
    log = tmp_path / "engine.log"

    with pytest.raises(ServeError) as caught, Engine(broken, log):
        pass

    first, second = str(caught.value).splitlines()
    assert "stack.yaml:3: adapters.house: there is no folder" in first
    assert "none.jsonl: there is no such file" in second
    assert not log.exists()


def test_adapters_are_named_and_have_one_slot_to_spare(tmp_path: Path, model: Path) -> None:
    copies = {name: make_adapter(tmp_path / name, model, rank=9) for name in ("house", "field")}

    arguments = command(Stack(model=str(model), strategies=DIRECT, adapters=copies), model, copies, tmp_path / "socket")

    text = " ".join(arguments)
    assert "--enable-lora --max-loras 3 --max-cpu-loras 3 --max-lora-rank 16" in text
    assert arguments[-2:] == [f"house={copies['house']}", f"field={copies['field']}"]


def test_without_adapters_nothing_of_lora_is_started(tmp_path: Path) -> None:
    plain = Stack(model="owner/name", strategies=DIRECT, engine=EngineSettings(arguments=("--seed", "3")))

    arguments = command(plain, Path("/models/name"), {}, tmp_path / "socket")

    assert not any("lora" in argument for argument in arguments)
    assert arguments[arguments.index("--served-model-name") + 1] == "owner/name"
    assert arguments[-2:] == ["--seed", "3"]


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

for words in json.load(sys.stdin):
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    validate_parsed_serve_args(parsed)
    print(json.dumps({name: str(value) for name, value in vars(parsed).items()}))
"""


def test_vllms_own_parser_takes_what_it_is_given_on_either_machine(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_adapter(tmp_path / "house", model, rank=12)
    many = EngineSettings(
        gpu_memory_utilization=0.5, tensor_parallel_size=2, data_parallel_size=3, max_loras=6, max_lora_rank=32
    )
    (tmp_path / "folder").mkdir()
    stacks = {
        "vllm-cpu": Stack(model="own/name", strategies=DIRECT, adapters={"house": house}),
        "vllm": Stack(model="own/name", strategies=DIRECT, adapter_folder=tmp_path / "folder", engine=many),
    }
    commands = []
    for machine, one in stacks.items():
        monkeypatch.setattr("serve.engine._installed", machine.__eq__)
        commands.append(command(one, model, dict(one.adapters), tmp_path / "socket")[3:])

    said = subprocess.run(
        [sys.executable, "-c", PARSE], input=json.dumps(commands), capture_output=True, text=True, check=True
    )

    cpu, cuda = (json.loads(line) for line in said.stdout.splitlines() if line.startswith("{"))
    ours = {"model": str(model), "served_model_name": "['own/name']", "uds": str(tmp_path / "socket")}
    mine = {"enforce_eager": "True", "block_size": "32", "max_loras": "2", "max_lora_rank": "16", "enable_lora": "True"}
    assert cpu.items() >= {**ours, **mine, "generation_config": "vllm"}.items()
    assert f"name='house', path='{house}'" in cpu["lora_modules"]
    gpus = {"tensor_parallel_size": "2", "data_parallel_size": "3", "api_server_count": "1", "enforce_eager": "False"}
    loras = {"enable_lora": "True", "max_loras": "7", "max_lora_rank": "32", "gpu_memory_utilization": "0.5"}
    assert cuda.items() >= {**ours, **gpus, **loras}.items()


def test_a_rank_above_the_stacks_own_limit_is_refused_at_its_line(tmp_path: Path, model: Path) -> None:
    make_adapter(tmp_path / "house", model, rank=12)
    limited = replace(stack(tmp_path, model), engine=EngineSettings(max_lora_rank=8))

    with pytest.raises(ServeError, match=r"stack\.yaml:3: adapters\.house: .* has rank 12, and the engine takes 8"):
        check(limited)


def test_nothing_is_downloaded_or_reported_whatever_the_user_has_set() -> None:
    seen = environment({"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "3", "PATH": "/bin"})

    assert (seen["HF_HUB_OFFLINE"], seen["VLLM_NO_USAGE_STATS"]) == ("1", "1")
    assert (seen["OMP_NUM_THREADS"], seen["PATH"]) == ("3", "/bin")


@pytest.mark.parametrize("brought", [True, False], ids=["vLLM's OpenMP", "PyTorch's OpenMP"])
def test_an_engine_on_a_cpu_has_every_core_and_its_threads_sleep_while_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought: bool
) -> None:
    library = tmp_path / "lib" / "libiomp5.so"
    if brought:
        library.parent.mkdir()
        library.touch()
    monkeypatch.setattr("serve.engine.sys.prefix", str(tmp_path))
    monkeypatch.setattr("serve.engine.os.sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr("serve.engine._installed", "vllm-cpu".__eq__)

    seen, own = environment({}), environment({"LD_PRELOAD": "mine.so"})

    assert (seen["OMP_NUM_THREADS"], seen["OMP_WAIT_POLICY"]) == ("4", "PASSIVE")
    assert (seen.get("LD_PRELOAD"), seen.get("KMP_BLOCKTIME")) == ((str(library), "1") if brought else (None, None))
    assert own["LD_PRELOAD"] == "mine.so"


LOGS = {
    "a root cause": (
        "(EngineCore pid=7) ERROR 11-22 21:55:40 [core.py:9] Traceback (most recent call last):\n"
        "(EngineCore pid=7) ERROR 11-22 21:55:40 [core.py:9] ValueError: No room for the KV cache.\n"
        "(APIServer pid=6) Traceback (most recent call last):\n"
        "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.\n",
        "  ValueError: No room for the KV cache.",
    ),
    "said twice": ("OSError: gone\nOSError: gone\n", "  OSError: gone"),
    "wrong arguments": (
        "usage: x\napi_server.py: error: unrecognized arguments: --x\n",
        "  api_server.py: error: unrecognized arguments: --x",
    ),
    "no exception": ("one\n\ntwo\nthree\nKilled\n", "  two\n  three\n  Killed"),
}


@pytest.mark.parametrize(("log", "words"), LOGS.values(), ids=LOGS)
def test_the_last_words_are_the_cause_and_not_its_consequences(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "engine.log").write_text(log)

    assert last_words(tmp_path / "engine.log") == words
