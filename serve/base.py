"""The base model's folder: where it is on this machine, what is wrong with it, and its chat template.

Of weights it reads no more than tells them from others; downloads nothing, and knows nothing of engines.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from retrieval.files import fingerprint

TEMPLATE: Final = "chat_template.jinja"
READ: Final = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""What an engine reads of a model's folder: weights, settings, templates and tokenizers."""


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


def model_problems(model: str, folder: Path | None) -> Iterator[str]:
    """Why this model cannot be served; nothing when it can. `folder` is what `model_folder` gave."""
    if folder is None and Path(model).is_absolute():
        yield f"there is no folder {model}"
    elif folder is None:
        yield f"{model} is not on this machine; fetch it once with `python scripts/fetch.py {model}`"
    elif not (folder / "config.json").is_file():
        yield f"{folder} holds no model: it has no config.json"
    elif not any(folder.glob("*.safetensors")):
        yield f"{folder} has no *.safetensors weights"
    elif not chat_template(folder):
        yield f"{folder} has no chat template, so it cannot answer chats; take an instruction-tuned model"


def model_files(folder: Path) -> dict[str, str]:
    """What an engine reads there, with a hash of each: two folders with the same answer the same."""
    return {file.name: fingerprint(file) for file in sorted(folder.iterdir()) if file.suffix in READ}


def chat_template(folder: Path) -> str:
    """The template that lays out a plain chat; empty when there is none. A file of its own goes before the setting."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            written = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template") or ""
            if written:
                return written if isinstance(written, str) else _default(written)
    return ""


def _default(named: list[dict[str, str]]) -> str:
    """Of several templates, the one that is used unless another is asked for."""
    return next((one["template"] for one in named if one["name"] == "default"), "")
