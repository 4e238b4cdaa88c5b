"""A model that stands alone, made of an adapter and its base: W + scale B A in float32, rounded to bfloat16 once.

    python -m train.merge out/adapters/demo out/models/demo

The base is read from its own files, never as the 4 bits it may have been trained in, and one file at a time, so that it
need not fit into memory. Knows nothing of architectures: layers go by name, and one without a match is refused.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from retrieval.console import Parser
from retrieval.files import FileError, flush, write_atomically
from train.base import INDEX, read_config, read_json, sha256, weight_files
from train.door import TrainError, refuse
from train.provenance import CARD, SPARE_BYTES, WEIGHTS, base_of, check_room, versions

if TYPE_CHECKING:
    from torch import Tensor

TEMPLATE: Final = "chat_template.jinja"
WORDS: Final = (
    *("generation_config.json", "tokenizer*", "*.model", "*.tiktoken", "vocab*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "LICENSE*", "NOTICE*"),
)
"""What of the base is copied as it is: all that speaks, and its licence. Its README describes another model."""
PLAIN: Final = {"peft_type": "LORA", "bias": "none"} | dict.fromkeys(
    ("alpha_pattern", "fan_in_fan_out", "use_dora", "lora_bias", "modules_to_save", "target_parameters"), None
)
"""What PEFT's config says of an adapter whose every layer is W + scale B A; other values need other sums."""
MATRIX: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to one weight [out, in] of its base."""

    a: "Tensor"
    """[rank, in]"""
    b: "Tensor"
    """[out, rank]"""
    scale: float

    @property
    def shape(self) -> list[int]:
        """The weight's."""
        return [self.b.shape[0], self.a.shape[1]]

    def added_to(self, weight: "Tensor") -> "Tensor":
        """The sum, in float32."""
        return weight.float() + (self.b.float() @ self.a.float()) * self.scale


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge, and say what to do next; the exit code."""
    parser = Parser(
        prog="python -m train.merge",
        description="Make a model folder that needs no adapter, in bfloat16, of an adapter and its base.",
        epilog="example: python -m train.merge out/adapters/demo out/models/demo",
    )
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="an adapter's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the model's folder, which must not exist yet")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the base, where it is no longer where it was")
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        merge(options.adapter, options.out, options.base)
    except (TrainError, FileError) as error:
        return refuse(error)
    print(
        f"{options.out} needs no adapter: serve it with `model: {options.out.resolve()}` in a stack file, after "
        f"`python -m scripts.check_parity {options.adapter} --merged {options.out}` has compared its answers"
    )
    return 0


def merge(adapter: Path, out: Path, moved: Path | None = None) -> None:
    """Make the folder `out`, whole or not at all; `moved` is where the base is now. TrainError when it cannot be."""
    if out.exists():
        raise TrainError(f"{out} exists: delete it, or choose another folder")
    base = base_of(adapter, moved)
    try:
        files, deltas = weight_files(base), read_deltas(adapter)
        shapes = {name: shape for file in files for name, shape in read_shapes(file).items()}
    except SafetensorError as error:
        raise TrainError(f"the weights of {adapter} or {base} cannot be read ({error}): copy them again") from None
    _check_layers(adapter, base, deltas, shapes)
    size = 2 * sum(prod(shape) for shape in shapes.values())
    check_room(out, size + SPARE_BYTES, "the model", "choose another folder")
    beside = out.with_name(f".{out.name}.merging")  # hidden, so that no one takes it for a model
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        _write_words(adapter, base, beside, size)
        for file in tqdm(files, desc="merging", unit="file", disable=None):
            write_merged(file, deltas, beside / file.name)
        flush(beside)
        beside.rename(out)
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{out} cannot be written ({error}): free some space or choose another folder") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Of all tensors in it, from its header alone."""
    with safe_open(file, "pt") as weights:
        return {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 (no mapping)


def read_deltas(adapter: Path) -> dict[str, Delta]:
    """By the name of the weight that they change; TrainError when the adapter is more than plain LoRA."""
    from safetensors.torch import load_file

    config = read_json(adapter / "adapter_config.json")
    more = [f"{key}: {config[key]}" for key, plain in PLAIN.items() if config.get(key) and config[key] != plain]
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, matrix in load_file(adapter / WEIGHTS).items():
        if match := MATRIX.fullmatch(name):
            pairs.setdefault(f"{match['module']}.weight", {})[match["side"]] = matrix
        else:
            more.append(name)
    more += [f"half of {name}" for name, pair in pairs.items() if len(pair) < 2]
    if more:
        raise TrainError(f"{adapter} is more than plain LoRA ({'; '.join(more[:3])}), and only that can be merged")
    return {name: Delta(pair["A"], pair["B"], scale(config, len(pair["A"]))) for name, pair in pairs.items()}


def scale(config: Mapping[str, Any], rank: int) -> float:
    """What B A is multiplied by: alpha / rank, or with rsLoRA (Kalajdzievski 2023) alpha / sqrt(rank).

    >>> scale({"lora_alpha": 32}, 16), scale({"lora_alpha": 32, "use_rslora": True}, 16)
    (2.0, 8.0)
    """
    alpha: float = config["lora_alpha"]
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _check_layers(adapter: Path, base: Path, deltas: Mapping[str, Delta], shapes: Mapping[str, list[int]]) -> None:
    """Whatever is to change must be there: tied embeddings, for instance, have no head of their own."""
    if read_config(base).get("quantization_config"):
        raise TrainError(f"{base} is quantised, and sums are not made in few bits: give the original with --base")
    wrong = [f"{name} {delta.shape}" for name, delta in deltas.items() if shapes.get(name) != delta.shape]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise TrainError(f"{adapter} changes weights that {base} does not have: {', '.join(wrong[:3])}{more}")


def write_merged(file: Path, deltas: Mapping[str, Delta], target: Path) -> None:
    """One file of the base with the adapter in it. What is no number of a layer (a counter, say) stays what it is."""
    from safetensors.torch import save_file

    merged = {}
    with safe_open(file, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 (no mapping)
            tensor = weights.get_tensor(name)
            tensor = deltas[name].added_to(tensor) if name in deltas else tensor
            merged[name] = tensor.bfloat16() if tensor.is_floating_point() else tensor
    save_file(merged, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors writes for the owner only, but the server may be someone else
    flush(target)


def _write_words(adapter: Path, base: Path, out: Path, size: int) -> None:
    """All files but the weights: config, tokenizer, the adapter's own chat template, and where the model comes from."""
    for file in sorted({file for pattern in WORDS for file in base.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, out / file.name)
    if (adapter / TEMPLATE).exists():
        shutil.copyfile(adapter / TEMPLATE, out / TEMPLATE)
        settings = read_json(base / "tokenizer_config.json")
        _write_json(out / "tokenizer_config.json", {k: v for k, v in settings.items() if k != "chat_template"})
    config = read_config(base)
    _write_json(out / "config.json", config | {"torch_dtype" if "torch_dtype" in config else "dtype": "bfloat16"})
    if (base / INDEX).exists():
        _write_json(out / INDEX, read_json(base / INDEX) | {"metadata": {"total_size": size}})
    card = {
        "merged": {"adapter": str(adapter.resolve()), "weights": sha256(adapter / WEIGHTS), "base": str(base)},
        "adapter": read_json(adapter / CARD) if (adapter / CARD).exists() else "unknown",
        "versions": versions("torch", "safetensors"),
    }
    _write_json(out / CARD, card)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
