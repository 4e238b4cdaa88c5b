"""The adapter folder that vLLM and PEFT load: bfloat16 weights, config, chat template, provenance. Whole or not at all.

Knows nothing of how the adapter was trained.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from retrieval.files import write_atomically
from train.door import TrainError
from train.provenance import CARD


@dataclass(frozen=True, slots=True)
class Workshop:
    """A folder beside the adapter's, in which the log grows and the adapter is put together; renamed when complete."""

    folder: Path
    """Where the adapter will be."""

    @property
    def unfinished(self) -> Path:
        """Hidden, so that no one takes it for an adapter; a training that stops leaves its log here."""
        return self.folder.with_name(f".{self.folder.name}.unfinished")

    def open(self) -> None:
        """Start empty."""
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir(parents=True)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with (self.unfinished / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def finish(self, model: nn.Module, template: str, card: Mapping[str, Any]) -> None:
        """Write everything and give the folder its name."""
        weights = self.unfinished / "adapter_model.safetensors"
        save_file(exported(model), weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors writes for the owner only, but the server may be someone else
        adapters: Any = model.peft_config
        config = adapters["default"]
        config.inference_mode, config.target_modules = True, sorted(config.target_modules)
        config.save_pretrained(self.unfinished)
        write_atomically(self.unfinished / "chat_template.jinja", template)
        digest = hashlib.sha256(template.encode()).hexdigest()
        write_atomically(self.unfinished / CARD, json.dumps({**card, "template_sha256": digest}, indent=2) + "\n")
        self.unfinished.rename(self.folder)


def exported(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's matrices in bfloat16 under PEFT's names; TrainError when one never moved from its zero start."""
    matrices = {
        name: matrix.detach().to("cpu", torch.bfloat16).contiguous() for name, matrix in _matrices(model).items()
    }
    still = [name for name, matrix in matrices.items() if "lora_B" in name and not matrix.any()]
    if still:
        raise TrainError(
            f"{len(still)} of the adapter's layers did not learn anything, for instance {still[0]}; nothing was saved"
        )
    return matrices


def _matrices(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = get_peft_model_state_dict(model)
    return state
