"""LoRA adapter folders: what is wrong with one, and a copy of it that nobody changes while it is served.

Reads JSON and the headers of safetensors files, never a pickle; knows nothing of how vLLM applies an adapter.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.files import file_hash
from serve.base import TEMPLATE, chat_template

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PROVENANCE: Final = "provenance.json"
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values vLLM takes for --max-lora-rank."""

_LORA: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_SHOWN: Final = 3
_HASH: Final = 12
_QUICK_TO_HASH: Final = 256 * 2**20

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""


def problems(adapter: Path, model: Path, rank: int = RANKS[-1]) -> Iterator[str]:
    """Why this adapter cannot be served on the model in the folder `model`, by an engine that takes this rank."""
    if not adapter.is_dir():
        yield f"there is no folder {adapter}; train it (accelerate launch train/lora.py) or leave it out"
        return
    pickles = sorted(file.name for file in adapter.iterdir() if file.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"})
    if pickles:
        yield f"{adapter} holds {', '.join(pickles)}: a pickle can run any code; save the adapter as safetensors"
        return
    missing = [name for name in (CONFIG, WEIGHTS) if not (adapter / name).is_file()]
    if missing:
        yield f"{adapter} is no PEFT adapter: it has no {' and no '.join(missing)}"
        return
    try:
        config, shapes = _json(adapter / CONFIG), tensor_shapes(adapter / WEIGHTS)
    except ValueError as error:
        yield str(error)
        return
    yield from _unsupported(adapter, config)
    if (its := _rank(config)) > rank:
        hint = "set engine.max_lora_rank" if its <= RANKS[-1] else "vLLM serves no higher one"
        yield f"{adapter} has rank {its}, and the engine takes {rank}; {hint}"
    yield from _misfits(adapter, shapes, model)
    template = adapter / TEMPLATE
    if template.is_file() and template.read_text(encoding="utf-8") != chat_template(model):
        yield f"{adapter} was trained with another chat template than that of {model}: its prompts would look strange"


def lora_rank(adapters: Iterable[Path]) -> int:
    """The smallest rank vLLM can be started with that holds all of these adapters."""
    highest = max(_rank(_json(adapter / CONFIG)) for adapter in adapters)
    return next(rank for rank in RANKS if rank >= highest)


def stage(name: str, adapter: Path, folder: Path) -> Path:
    """Copy the adapter to `folder/NAME@HASH`, which is also what the engine calls it; give that path.

    vLLM tells adapters apart by name and path, in its prefix cache too: other weights under an old name would answer
    with what is left of those before them. Only configuration and safetensors are copied, so nothing else is read.
    """
    weights, config = _parts(adapter)
    home = folder / _called(name, weights, config)
    if home.is_dir():
        return home
    unfinished = folder / f"{home.name}.part"
    unfinished.mkdir(parents=True, exist_ok=True)
    (unfinished / WEIGHTS).write_bytes(weights)
    (unfinished / CONFIG).write_bytes(config)
    return unfinished.rename(home)


def served_as(name: str, adapter: Path) -> str:
    """What an engine calls it: the same wherever the same files lie."""
    return _called(name, *_parts(adapter))


def stamp(adapter: Path) -> tuple[int, ...]:
    """Another one when the adapter's files are others; empty while they are not both there."""
    try:
        found = [(adapter / name).stat() for name in (CONFIG, WEIGHTS)]
    except OSError:
        return ()
    return tuple(number for one in found for number in (one.st_ino, one.st_size, one.st_mtime_ns))


def tensor_shapes(file: Path) -> Shapes:
    """The shapes in a safetensors file, from its header alone; ValueError when it is not one."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        tensors = {name: one for name, one in header.items() if name != "__metadata__"}
        if any(one["data_offsets"][1] > file.stat().st_size - 8 - length for one in tensors.values()):
            raise KeyError("the rest of the data")
        return {name: tuple(one["shape"]) for name, one in tensors.items()}
    except (OSError, struct.error, UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, LookupError):
        raise ValueError(f"{file} is not a safetensors file, or is cut off; train or copy the adapter again") from None


def _parts(adapter: Path) -> tuple[bytes, bytes]:
    return (adapter / WEIGHTS).read_bytes(), (adapter / CONFIG).read_bytes()


def _called(name: str, weights: bytes, config: bytes) -> str:
    return f"{name}@{hashlib.sha256(weights + config).hexdigest()[:_HASH]}"


def _unsupported(adapter: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """What vLLM's LoRA does not do."""
    if config.get("peft_type") != "LORA":
        yield f"{adapter} is a {config.get('peft_type')} adapter; only LORA can be served beside the base model"
        return
    if config.get("use_dora"):
        yield f"{adapter} uses DoRA, which vLLM does not serve; train with use_dora: false"
    if config.get("bias", "none") != "none":
        yield f"{adapter} trained biases (bias={config['bias']!r}), which vLLM does not serve; train with bias: none"
    if config.get("modules_to_save"):
        yield f"{adapter} replaces whole modules ({', '.join(config['modules_to_save'])}), which vLLM does not serve"


def _misfits(adapter: Path, shapes: Shapes, model: Path) -> Iterator[str]:
    """Signs that the adapter was made for another model: other files in its provenance, other layers in its tensors."""
    quantised = "quantization_config" in _json(model / "config.json")
    changed = [] if quantised else list(_changed_files(adapter / PROVENANCE, model))
    if changed:
        yield f"{adapter} was trained on another model than {model} (other {', '.join(changed)}); train it again"
        return
    wrong = [f"{module} ({why})" for module, why in _wrong_layers(shapes, model, quantised)]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        yield f"{adapter} was made for another model than {model}: {'; '.join(wrong[:_SHOWN])}{more}"


def _changed_files(card: Path, model: Path) -> Iterator[str]:
    """The files of the base model that are not what they were when the adapter was trained."""
    known = _json(card).get("identity", {}).get("base", {}) if card.is_file() else {}
    return (name for name, sha256 in known.items() if not _may_be(model / name, sha256))


def _may_be(file: Path, sha256: str) -> bool:
    """Whether the file has this hash, as far as seconds can tell: a large file is trusted unless it is named by it."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and len(blob.name) == len(sha256):
        return blob.name == sha256  # in the hub's cache
    return blob.is_file() and (blob.stat().st_size > _QUICK_TO_HASH or file_hash(blob) == sha256)


def _wrong_layers(shapes: Shapes, model: Path, quantised: bool) -> Iterator[tuple[str, str]]:
    """Layers that the model does not have in this shape; a quantised model keeps its own under other names."""
    base = {name: shape for file in model.glob("*.safetensors") for name, shape in tensor_shapes(file).items()}
    for name, shape in shapes.items():
        match = _LORA.fullmatch(name)
        if not match:
            continue
        weight, axis = base.get(f"{match['module']}.weight"), "BA".index(match["side"])
        if weight is None and not quantised:
            yield match["module"], "no such layer"
        elif weight and shape[axis] != weight[axis]:
            yield match["module"], f"{('output', 'input')[axis]} of {shape[axis]}, the model's has {weight[axis]}"


def _rank(config: Mapping[str, Any]) -> int:
    return max(int(rank) for rank in (config.get("r", 1), *config.get("rank_pattern", {}).values()))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from None
