"""The base model as a folder on disk: where it is, whether it can be trained on, and its fingerprint.

Reads JSON and hashes bytes; knows nothing of torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from train.door import TrainError
from train.recipe import Recipe

INDEX: Final = "model.safetensors.index.json"
FINGERPRINTED: Final = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""What changes the adapter when it changes: weights, shape, tokens, template, stop tokens."""


def find_base(model: str) -> Path:
    """The folder of a model given as a path or as the id of one that was fetched before."""
    folder = Path(model) if Path(model).is_dir() or model.startswith((".", "/")) else _fetched(model)
    if (folder / "adapter_config.json").exists():
        raise TrainError(f"{folder} is an adapter, not a base model: set model to the base it was trained on")
    if not (folder / "config.json").exists():
        raise TrainError(
            f"{folder} is no model folder (it has no config.json): set model to a folder or a fetched model id"
        )
    return folder


def _fetched(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        raise TrainError(
            f"{model} is neither a folder nor a fetched model: run `python scripts/fetch.py {model}`, or give a folder"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json."""
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file of a model or adapter; TrainError when there is none."""
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise TrainError(f"{path} cannot be read ({error}): copy or make its folder again") from None


def check_base(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse, before loading it, a base that this room cannot train or that vLLM could not serve with the adapter."""
    if wrong := list(_refusals(config, recipe)):
        raise TrainError("\n".join(f"{recipe.model}: {sentence}" for sentence in wrong))


def _refusals(config: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    if config.get("quantization_config"):
        yield "is already quantised: use the original, with quantize=nf4 where it must be small"
    if config.get("is_encoder_decoder"):
        yield "is an encoder-decoder; only decoder models can be trained here"
    if "text_config" in config:
        yield "reads pictures or sound; only text models can be trained here"
    if any(config.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        yield "is a mixture of experts; their routers and experts take no LoRA that vLLM loads, so use a dense model"
    if not config.get("hidden_size"):
        yield "has no hidden_size in its config.json, so its layers are not those of the decoders trained here"
    limit = config.get("max_position_embeddings")
    if limit and recipe.max_length > limit:
        yield f"reads at most {limit} tokens, but max_length is {recipe.max_length}: set max_length={limit} or less"


def check_it_can_be_served(base: Path, bytes_of_gpu: int) -> None:
    """Refuse a base that 4 bits would squeeze onto this GPU, but that the server, in 16 bits, could not load."""
    needed = 2 * parameters(base)
    if needed > bytes_of_gpu:
        raise TrainError(
            f"{base}: needs {needed / 2**30:.0f} GiB in bfloat16 and this GPU has {bytes_of_gpu / 2**30:.0f}: the "
            "server runs adapters on the bfloat16 base, so this one could be trained here but not served; take a "
            "smaller base"
        )


def weight_files(base: Path) -> list[Path]:
    """Those that its index names, or its only one. (Some bases hold their weights a second time, beside these.)"""
    names = {"model.safetensors"}
    if (base / INDEX).exists():
        names = set(read_json(base / INDEX)["weight_map"].values())
    if missing := [name for name in sorted(names) if not (base / name).is_file()]:
        raise TrainError(f"{base} has no {', '.join(missing)}: fetch or copy it again")
    return [base / name for name in sorted(names)]


def parameters(base: Path) -> int:
    """How many numbers the weights hold, from the headers of their files."""
    count = 0
    for file in weight_files(base):
        with safe_open(file, "np") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def fingerprint(folder: Path) -> dict[str, str]:
    """sha256 of every file that determines what the adapter is trained on."""
    files = {file.name: file for pattern in FINGERPRINTED for file in sorted(folder.glob(pattern))}
    return {name: sha256(file) for name, file in sorted(files.items())}


def revision(folder: Path) -> str | None:
    """The commit of a model in the hub's cache, where the folder is named after it."""
    return folder.name if folder.parent.name == "snapshots" else None


def sha256(file: Path) -> str:
    """The file's hash; the hub's cache already names its large files by it, which saves reading tens of gigabytes."""
    blob = Path(os.path.realpath(file))
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name
    with blob.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
