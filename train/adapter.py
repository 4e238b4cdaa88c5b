"""The adapter folder that vLLM and PEFT load, and the workshop beside it where a training keeps what it has so far.

Both are whole or not there at all. Knows nothing of how an adapter is trained.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from retrieval.files import locked, write_atomically, write_jsonl
from train.checkpoint import Checkpoint, last_progress, newest, whole
from train.door import TrainError
from train.provenance import CARD, IDENTITY, WEIGHTS, unfinished

LOG: Final = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter at some moment of its training."""

    config: LoraConfig
    matrices: Mapping[str, Tensor]
    """In bfloat16, under PEFT's names."""

    @classmethod
    def of(cls, model: Any) -> "Adapter":
        """What PEFT's model holds; every process of several must call this."""
        config = copy(model.peft_config["default"])
        config.inference_mode, config.target_modules = True, sorted(config.target_modules)
        state = get_peft_model_state_dict(model)
        return cls(config, {name: whole(matrix).bfloat16() for name, matrix in state.items()})


@dataclass(frozen=True, slots=True)
class Workshop:
    """A hidden folder beside the adapter's, in which log and checkpoints grow while it is trained."""

    folder: Path
    """Where the adapter will be."""
    identity: Mapping[str, Any]
    """What makes it this adapter and no other."""
    template: str
    """The chat template that it is trained with."""
    describe: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """Makes a card of what was measured."""

    @property
    def unfinished(self) -> Path:
        """Hidden, so that no one takes it for an adapter."""
        return unfinished(self.folder)

    def locked(self) -> AbstractContextManager[int]:
        """While this is open, no other process trains an adapter of this name; TrainError when one does already."""
        busy = f"{self.folder} is being trained by another process: wait for it, or choose another name=..."
        return locked(self.unfinished, TrainError(busy))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Locked, and ready for this training; TrainError when it cannot be."""
        with self.locked():
            try:
                self._tidy()
            except (SafetensorError, OSError) as error:
                raise TrainError(
                    f"{self.unfinished} cannot be used ({error}): free some space, or delete it to train from the start"
                ) from error
            yield

    def _tidy(self) -> None:
        """As the same training left it, with a log up to the checkpoint, or else empty."""
        held = last_progress(self.unfinished) if (self.unfinished / IDENTITY).exists() else None
        if held is None:
            for entry in self.unfinished.glob("*"):  # the folder itself is what is locked
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_atomically(self.unfinished / IDENTITY, json.dumps({"identity": self.identity}, indent=2) + "\n")
        else:
            entries = [entry for entry in _entries(self.unfinished / LOG) if entry["step"] <= held.step]
            write_jsonl(self.unfinished / LOG, entries)

    def newest(self) -> Checkpoint | None:
        """The last checkpoint."""
        return newest(self.unfinished)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with (self.unfinished / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def keep(self, adapter: Adapter, results: Mapping[str, Any], suffix: str) -> None:
        """Write the folder named so, whole or not at all; without a suffix the work is done and the workshop goes.

        TrainError when it cannot be written; the checkpoints are still there then.
        """
        try:
            self._keep(adapter, results, suffix)
        except (SafetensorError, OSError) as error:  # the first is how safetensors says that it cannot write
            raise TrainError(
                f"{self.folder}{suffix} cannot be written ({error}): free some space; the same command goes on from "
                "the last checkpoint"
            ) from error

    def _keep(self, adapter: Adapter, results: Mapping[str, Any], suffix: str) -> None:
        folder = self.folder.with_name(self.folder.name + suffix)
        beside = self.unfinished / folder.name
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        weights = beside / WEIGHTS
        save_file(dict(adapter.matrices), weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors writes for the owner only, but the server may be someone else
        adapter.config.save_pretrained(beside)
        shutil.copy(self.unfinished / LOG, beside / LOG)
        write_atomically(beside / "chat_template.jinja", self.template)
        digest = hashlib.sha256(self.template.encode()).hexdigest()
        card = {**self.describe(results), "name": folder.name, "template_sha256": digest}
        write_atomically(beside / CARD, json.dumps(card, indent=2) + "\n")
        if folder.exists():  # a snapshot from before the training was killed
            shutil.rmtree(folder)
        beside.rename(folder)
        if not suffix:
            shutil.rmtree(self.unfinished)


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """The log's lines up to one that a power cut tore: unlike checkpoints, they are not flushed to the disk."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
