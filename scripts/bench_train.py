"""Our training loop against TRL's: the same rows, base, rank, learning rate and tokens a step, a process for every run.

    python -m scripts.bench_train                     # a base of 0.1 B random weights; speed asks for no better ones
    python -m scripts.bench_train --shape 8B --rows 2000   # the same on a GPU

TRL runs at its best settings (bfloat16, packing, loss on assistant tokens only, no checkpointing) and as it comes. Runs
are interleaved, so that a slow minute of the machine hits everybody; one piece of code measures everybody's final loss.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from retrieval.console import Parser
from retrieval.files import write_jsonl

POCKET: Final = Path(__file__).parent / "pocket" / "model"
PACK: Final = 2048
LONGEST_ROW: Final = 1000
"""TRL cuts rows at 1,024 tokens unless told otherwise; here nothing is cut for anybody."""
LEARNING_RATE: Final = 5e-4
GENERATION: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The pocket model's template with the marks that TRL needs to find assistant tokens."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a base model with random weights."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


SHAPES: Final = {
    "0.1B": Shape(768, 2304, 12, 12, 4, 49_152),
    "8B": Shape(4096, 12_288, 36, 32, 8, 151_936),  # Qwen3-8B
}


@dataclass(frozen=True, slots=True)
class Run:
    """What one training measured."""

    seconds: float
    peak_gib: float


# Contestants ----------------------------------------------------------------------------------------------------------


def train_ours(folder: Path, out: Path) -> Run:
    from train.lora import main as train_lora

    settings = {
        "model": folder / "base",
        "data": folder / "train.jsonl",
        "output": out.parent,
        "name": out.name,
        "epochs": 1,
        "learning_rate": LEARNING_RATE,
        "max_length": PACK,
        "tokens_per_step": PACK,
        "eval_fraction": 0,
    }
    recipe = out.with_suffix(".yaml")
    recipe.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    assert train_lora(["--config", str(recipe)]) == 0
    card = json.loads((out / "provenance.json").read_text())
    return Run(card["seconds"], card["peak_gib"])


def train_trl(folder: Path, out: Path, best: bool) -> Run:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    chosen: dict[str, Any] = {}
    if best:
        tokenizer.chat_template = GENERATION
        chosen = {
            "model_init_kwargs": {"dtype": "bfloat16"},
            "max_length": PACK,
            "packing": True,
            "per_device_train_batch_size": 1,
            "assistant_only_loss": True,
            "gradient_checkpointing": False,
        }
    trainer = SFTTrainer(
        model=str(folder / "base"),
        args=SFTConfig(
            output_dir=str(out),
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            report_to="none",
            save_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            **chosen,
        ),
        train_dataset=load_dataset("json", data_files=str(folder / "train.jsonl"), split="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    trainer.save_model(str(out))
    if torch.cuda.is_available():
        return Run(seconds, torch.cuda.max_memory_allocated() / 2**30)
    return Run(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


CONTESTANTS: Final = {
    "fulcrum": train_ours,
    "trl, best settings": lambda folder, out: train_trl(folder, out, best=True),
    "trl, as it comes": lambda folder, out: train_trl(folder, out, best=False),
}


# The same for all -----------------------------------------------------------------------------------------------------


def make_base(folder: Path, shape: Shape) -> None:
    """Random weights behind the pocket model's tokenizer, which knows the first few of the vocabulary's tokens."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        tie_word_embeddings=shape.layers < 20,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_rows(folder: Path, rows: int) -> dict[str, int]:
    """Chats of one and more turns, four fifths of them to train on; returns the tokens of those."""
    from scripts.pocket.lessons import lessons
    from train.chat import read_chats
    from train.masking import Template, encode

    chats = [{"messages": chat} for _, chat in islice(lessons(Random(0)), rows * 2)]
    write_jsonl(folder / "all.jsonl", chats)
    template = Template.load(POCKET)
    samples = [s for s in encode(read_chats(folder / "all.jsonl"), template) if len(s.tokens) <= LONGEST_ROW][:rows]
    kept = [chats[int(sample.where.rpartition(":")[2]) - 1] for sample in samples]
    cut = rows * 4 // 5
    write_jsonl(folder / "train.jsonl", kept[:cut])
    write_jsonl(folder / "held_out.jsonl", kept[cut:])
    trained = samples[:cut]
    return {"tokens": sum(len(s.tokens) for s in trained), "assistant": sum(sum(s.labelled) for s in trained)}


def held_out_loss(folder: Path, adapter: Path) -> float:
    """The mean over the labelled tokens of the rows that nobody trained on."""
    import torch
    from peft import PeftModel

    from train.chat import read_chats
    from train.masking import Template, encode
    from train.model import Learner, batch, labelled_tokens, load_base
    from train.recipe import Recipe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(model=str(folder / "base"), data=folder)
    base = load_base(folder / "base", recipe, torch.bfloat16, device)
    learner = Learner(PeftModel.from_pretrained(base, str(adapter)))
    samples = encode(read_chats(folder / "held_out.jsonl"), Template.load(folder / "base"))
    with torch.no_grad():
        total = sum(float(learner(batch([sample], device))) for sample in samples)
    return total / labelled_tokens(samples)


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run one piece of this file alone; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench_train", "--only", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.bench_train --rows 200 --repeats 3")
    parser.add_argument("--shape", choices=SHAPES, default="0.1B")
    parser.add_argument("--rows", type=int, default=200, help="chats, a fifth of them held out (default: 200)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs=3, metavar=("WHAT", "FOLDER", "OUT"), help="what each process is asked for")
    options = parser.parse_args()
    if options.only:
        what, folder, out = options.only[0], Path(options.only[1]), Path(options.only[2])
        print(json.dumps(_only(what, folder, out)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", SHAPES[options.shape])
        counts = make_rows(folder, options.rows)
        runs: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in CONTESTANTS}
        losses = {}
        for repeat in range(options.repeats):
            for contestant, found in runs.items():
                out = folder / f"{contestant.replace(', ', '-').replace(' ', '-')}-{repeat}"
                found.append(in_a_process(contestant, str(folder), str(out)))
                print(f"{contestant}: {found[-1]['seconds']:.1f} s", file=sys.stderr)
                if repeat == 0:
                    losses[contestant] = in_a_process("loss", str(folder), str(out))["loss"]
    report(runs, losses, counts)


def _only(what: str, folder: Path, out: Path) -> dict[str, float]:
    if what == "loss":
        return {"loss": held_out_loss(folder, out)}
    run = CONTESTANTS[what](folder, out)
    return {"seconds": run.seconds, "peak_gib": run.peak_gib}


def report(
    runs: Mapping[str, Sequence[Mapping[str, float]]], losses: Mapping[str, float], counts: Mapping[str, int]
) -> None:
    table = Table(title=f"{counts['tokens']:,} tokens, {counts['assistant']:,} of them the assistant's, one epoch")
    for column in (
        "",
        "assistant tok/s",
        "tok/s",
        "spread of seconds",
        "peak GiB",
        "held-out loss",
        "fulcrum is faster by",
    ):
        table.add_column(column, justify="left" if not column else "right")
    ours = median(run["seconds"] for run in runs["fulcrum"])
    for contestant, found in runs.items():
        seconds = sorted(run["seconds"] for run in found)
        table.add_row(
            contestant,
            f"{counts['assistant'] / median(seconds):,.0f}",
            f"{counts['tokens'] / median(seconds):,.0f}",
            f"{seconds[0]:.1f} to {seconds[-1]:.1f}",
            f"{max(run['peak_gib'] for run in found):.2f}",
            f"{losses[contestant]:.4f}",
            f"{median(seconds) / ours:.2f}x",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
