"""What `serve deploy` writes, read by Ray's own schema; that it runs is shown by scripts/check_deploy.py."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from retrieval.files import FileError
from serve import deploy, engine
from serve.__main__ import main
from serve.chat import ServeError
from serve.deploy import Bounds, application, keywords
from serve.stack import EngineSettings, Stack
from serve.strategies.prompted import Prompted
from tests.tiny import make_adapter, make_model

GOLDEN = Path(__file__).parent / "golden" / "deploy"
MODEL = "models/pocket"
ARGUMENTS = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}', "--seed", "3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and two adapters for it."""
    folder = tmp_path_factory.mktemp("made")
    model = make_model(folder / "models" / "pocket")
    for name in ("house", "field"):
        make_adapter(folder / name, model, rank=9)
    return folder


def write(folder: Path, **more: object) -> Path:
    """A stack file in this folder, with a line for each further key."""
    known = {
        "model": MODEL,
        "adapters": {"house": "house", "field": "field"},
        "strategies": {"direct": {"kind": "direct"}},
    }
    file = folder / "stack.yaml"
    file.write_text(yaml.safe_dump(known | more, sort_keys=False))
    return file


def on(machine: str, patch: pytest.MonkeyPatch) -> None:
    for module in (engine, deploy):
        patch.setattr(module, "on_cpu", lambda: machine == "cpu")
    patch.setattr(os, "sched_getaffinity", lambda _: range(4))


def an_application(made: Path) -> dict[str, object]:
    homes = {name: Path(f"/out/deploy/{name}@0123456789ab") for name in ("house", "field")}
    stack = Stack(
        model="/models/pocket",
        strategies={"direct": Prompted(kind="direct")},
        adapters={name: made / name for name in homes},
        engine=EngineSettings(dtype="float32", tensor_parallel_size=2, arguments=ARGUMENTS),
    )
    return application(stack, MODEL, homes, Bounds(1, 8))


@pytest.mark.parametrize("machine", ["cpu", "gpu"])
def test_the_application_is_the_golden_one(machine: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To accept a change: delete the file, run the tests twice, and review what git shows."""
    on(machine, monkeypatch)
    golden = GOLDEN / f"{machine}.yaml"

    written = yaml.safe_dump(an_application(made), sort_keys=False)

    if not golden.exists():
        golden.write_text(written, encoding="utf-8")
        pytest.fail(f"{golden} did not exist and was written")
    assert written == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", ["cpu", "gpu"])
def test_ray_takes_the_application(machine: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: make ray")
    from ray.serve.llm import LLMServingArgs
    from ray.serve.schema import ServeDeploySchema

    on(machine, monkeypatch)

    (app,) = ServeDeploySchema.model_validate(an_application(made)).applications
    (model,) = LLMServingArgs.model_validate(app.args).llm_configs
    vllm = model.get_engine_config()

    assert vllm.placement_bundles == [{machine.upper(): 1}] * 2
    assert vllm.get_initialization_kwargs()["served_model_name"] == [MODEL]
    assert [module["name"] for module in vllm.frontend_kwargs["lora_modules"]] == ["house", "field"]


async def test_rays_front_offers_the_model_and_the_adapters_and_every_replica_answers_for_each() -> None:
    pytest.importorskip("ray", reason="Ray is an extra: make ray")
    from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard

    from serve.ingress import Ingress

    asked: list[dict[str, object]] = []
    replicas = SimpleNamespace(options=lambda **options: asked.append(options))
    card = ModelCard(id=MODEL, object="model", owned_by="us", permission=[], metadata={})

    front = Ingress({MODEL: replicas}, {MODEL: card}, adapters=["house"])
    offered = [one.id for one in (await front.models()).data]
    for name in offered:
        front._get_configured_serve_handle(await front._get_model_id(name))

    assert offered == [MODEL, "house"]
    assert asked == [{"stream": True}] * 2  # no `multiplexed_model_id`, which would ask a bucket for the adapter


@pytest.mark.parametrize("name", ["app.yaml", "app"])
def test_the_file_has_the_engine_of_the_stack_and_copies_of_its_adapters(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    file = write(made, engine={"max_model_len": 512})
    monkeypatch.setattr(sys, "argv", ["serve", "deploy", str(file), "--out", str(out), "--replicas", "2-3"])

    assert main() == 0

    (app,) = yaml.safe_load(out.read_text())["applications"]
    (model,) = app["args"]["llm_configs"]
    assert model["model_loading_config"] == {"model_id": MODEL, "model_source": str(made / MODEL)}
    assert model["engine_kwargs"]["max_model_len"] == 512
    scaling = model["deployment_config"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 3)
    for adapter, module in zip(("house", "field"), model["engine_kwargs"]["lora_modules"], strict=True):
        assert Path(module["path"]).parent == tmp_path / f"{name}.adapters"
        assert (Path(module["path"]) / "adapter_model.safetensors").read_bytes() == (
            made / adapter / "adapter_model.safetensors"
        ).read_bytes()
    (said,) = capsys.readouterr().out.splitlines()
    assert f"serve run {out}" in said
    assert f"url: {deploy.URL}" in said


REFUSED = {
    "an adapter that is missing": ({"adapters": {"house": "nowhere"}}, "adapters.house: there is no folder"),
    "a model that is missing": ({"model": "./nowhere"}, "stack.yaml:1: model: there is no folder"),
    "a server that runs already": ({"url": "http://127.0.0.1:1/v1"}, "there is nothing to deploy"),
    "adapters that come and go": ({"adapter_folder": "."}, "name those in `adapters`"),
    "an evaluation's replicas": ({"engine": {"ray": "local", "replicas": 2}}, "engine.ray: it places the engines of"),
    "copies by vLLM": ({"engine": {"data_parallel_size": 2}}, "see --replicas"),
    "an adapter of the model's name": ({"model": "models", "adapters": {"models": "house"}}, "or of an adapter"),
    "an argument of nobody": ({"engine": {"arguments": ["--no-such"]}}, "engine.arguments: vLLM does not take them"),
    "an argument of vLLM's server": (
        {"engine": {"arguments": ["--headless"]}},
        "no place for headless",
    ),
}


@pytest.mark.parametrize(("more", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_deployed_is_refused_and_nothing_is_written(
    more: dict[str, object], sentence: str, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "app.yaml"

    with pytest.raises((ServeError, FileError)) as caught:
        deploy.deploy(write(made, **more), out, Bounds())

    assert sentence in str(caught.value)
    assert not out.exists()


def test_arguments_are_read_by_vllms_own_parser_and_only_what_they_change_is_said() -> None:
    said = keywords(
        ["--max-model-len", "2k", "--dtype", "auto", "--no-enable-prefix-caching", "-tp", "2"], "stack.yaml:4"
    )

    assert said == {"max_model_len": 2000, "enable_prefix_caching": False, "tensor_parallel_size": 2}


@pytest.mark.parametrize("text", ["0", "2-1", "x", "1-", "-1", "1-2-3"])
def test_a_number_of_replicas_that_is_none_is_a_usage_error(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "deploy", "stack.yaml", f"--replicas={text}"])

    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 1
    assert "write 2, or 1-8" in capsys.readouterr().err
