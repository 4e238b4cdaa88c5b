"""Our training loop against TRL's: the same rows, base, rank, learning rate and tokens a step, a process for every run.

    python -m scripts.bench_train                              # a base of 0.1 B random weights
    python -m scripts.bench_train --data chats.jsonl           # the same on chats of your own
    python -m scripts.bench_train --shape 8B --pack 4096 --rows 2000          # on a GPU
    python -m scripts.bench_train --shape 8B --pack 4096 --rows 200 --full    # rows that fill a pack, for the MFU

TRL runs at its best settings (bfloat16, loss on assistant tokens only, no checkpointing) in packs and, because packs
are slow without a flash kernel, also row by row, which needs no padding either; and as it comes. Everybody's steps are
timed, nobody's loading. Runs are interleaved, so that a slow minute of the machine hits everybody; one piece of code
measures everybody's final loss.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from retrieval.console import Parser
from retrieval.files import read_jsonl, write_jsonl

POCKET: Final = Path(__file__).parent / "pocket" / "model"
LEARNING_RATE: Final = 5e-4
GENERATION: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The pocket model's template with the marks that TRL needs to find assistant tokens."""
PEAK: Final = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "4090": 165e12}
"""Dense bfloat16 FLOPs a second, by a part of the card's name (NVIDIA's data sheets)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a base model with random weights."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def flops_per_token(self) -> float:
        """Of LoRA training, attention left out: 4 a parameter (forward, and gradients of inputs; weights get none)."""
        attention = self.hidden * self.hidden * (2 + 2 * self.kv_heads / self.heads)
        head = self.hidden * self.vocabulary
        return 4 * (self.layers * (attention + 3 * self.hidden * self.inner) + head)


SHAPES: Final = {
    "0.1B": Shape(768, 2304, 12, 12, 4, 49_152, True),
    "8B": Shape(4096, 12_288, 36, 32, 8, 151_936, False),  # Qwen3-8B
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every contestant is given."""

    folder: Path
    """With `base`, `train.jsonl` and `held_out.jsonl`."""
    pack: int
    """Tokens in a step."""
    rows_per_step: int
    """As many rows as hold so many tokens, on average."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one training measured."""

    seconds: float
    peak_gib: float
    device: str


# Contestants ----------------------------------------------------------------------------------------------------------


def train_ours(work: Work, out: Path, quantize: str = "none") -> Run:
    from train.lora import main as train_lora

    settings = {
        "model": work.folder / "base",
        "data": work.folder / "train.jsonl",
        "output": out.parent,
        "name": out.name,
        "epochs": 1,
        "learning_rate": LEARNING_RATE,
        "max_length": work.pack,
        "tokens_per_step": work.pack,
        "eval_fraction": 0,
        "quantize": quantize,
    }
    recipe = out.with_suffix(".yaml")
    recipe.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    assert train_lora(["--config", str(recipe)]) == 0
    card = json.loads((out / "provenance.json").read_text())
    return Run(card["seconds"], card["peak_gib"], card["device"])


def train_trl(work: Work, out: Path, chosen: Mapping[str, Any]) -> Run:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Stopwatch(TrainerCallback):  # type: ignore[misc]
        seconds = began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.monotonic() - self.began

    gpu, stopwatch = torch.cuda.is_available(), Stopwatch()
    tokenizer = AutoTokenizer.from_pretrained(work.folder / "base")
    if chosen.get("assistant_only_loss"):
        tokenizer.chat_template = GENERATION
    trainer = SFTTrainer(
        model=str(work.folder / "base"),
        args=SFTConfig(
            output_dir=str(out),
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0,  # the first step of its warm-up has a rate of zero, and here are few steps
            report_to="none",
            save_strategy="no",
            use_cpu=not gpu,
            **chosen,
        ),
        train_dataset=load_dataset("json", data_files=str(work.folder / "train.jsonl"), split="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[stopwatch],
    )
    trainer.train()
    trainer.save_model(str(out))
    if gpu:
        return Run(stopwatch.seconds, torch.cuda.max_memory_allocated() / 2**30, torch.cuda.get_device_name())
    return Run(stopwatch.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "cpu")


def best_settings(work: Work) -> dict[str, Any]:
    return {
        "model_init_kwargs": {"dtype": "bfloat16"},
        "max_length": work.pack,
        "assistant_only_loss": True,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 1,
    }


CONTESTANTS: Final = {
    "fulcrum": train_ours,
    "fulcrum, nf4": lambda work, out: train_ours(work, out, "nf4"),
    "trl, best: packs": lambda work, out: train_trl(work, out, best_settings(work) | {"packing": True}),
    "trl, best: row by row": lambda work, out: train_trl(
        work, out, best_settings(work) | {"gradient_accumulation_steps": work.rows_per_step}
    ),
    "trl, as it comes": lambda work, out: train_trl(work, out, {}),
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
        tie_word_embeddings=shape.tied,
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


def chats_to_learn(data: Path | None, rows: int) -> list[dict[str, Any]]:
    """From a file, or lessons of the pocket model; twice as many as needed, since long ones are left out."""
    from scripts.pocket.lessons import lessons

    if data is None:
        return [{"messages": chat} for _, chat in islice(lessons(Random(0)), rows * 2)]
    return [{"messages": row["messages"]} for _, row in islice(read_jsonl(data), rows * 2)]


def full_rows(pack: int, rows: int) -> list[dict[str, Any]]:
    """Chats whose one long answer fills a pack to the last token."""
    from train.masking import Template

    tokenizer = Template.load(POCKET).tokenizer

    def chat(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Count."}, {"role": "assistant", "content": answer}]

    frame = len(tokenizer.apply_chat_template(chat("0"), return_dict=False)) - 1
    digits = Random(0)
    return [{"messages": chat("".join(str(digits.randrange(10)) for _ in range(pack - frame)))} for _ in range(rows)]


def make_rows(folder: Path, chats: Sequence[dict[str, Any]], rows: int, pack: int) -> dict[str, int]:
    """Four fifths of the chats that fit, to train on; the rest to measure the loss on. Counts the first's tokens."""
    from train.chat import read_chats
    from train.masking import Template, encode

    write_jsonl(folder / "all.jsonl", chats)
    # TRL as it comes cuts rows at 1,024 tokens; only rows that fill a pack on purpose are longer
    longest = pack if len({len(str(chat)) for chat in chats}) == 1 else min(1000, pack)
    samples = [s for s in encode(read_chats(folder / "all.jsonl"), Template.load(POCKET)) if len(s.tokens) <= longest]
    kept = [chats[int(sample.where.rpartition(":")[2]) - 1] for sample in samples[:rows]]
    cut = len(kept) * 4 // 5
    write_jsonl(folder / "train.jsonl", kept[:cut])
    write_jsonl(folder / "held_out.jsonl", kept[cut:])
    trained = samples[:cut]
    return {
        "rows": cut,
        "tokens": sum(len(s.tokens) for s in trained),
        "assistant": sum(sum(s.labelled) for s in trained),
    }


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


def in_a_process(what: str, work: Work, out: Path) -> dict[str, Any]:
    """Run one piece of this file alone; its last line is JSON."""
    given = json.dumps(asdict(work) | {"folder": str(work.folder), "out": str(out)})
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench_train", "--only", what, given],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        sys.exit(f"{what}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def only(what: str, given: str) -> dict[str, Any]:
    asked = json.loads(given)
    out = Path(asked.pop("out"))
    work = Work(**asked | {"folder": Path(asked["folder"])})
    if what == "loss":
        return {"loss": held_out_loss(work.folder, out)}
    return asdict(CONTESTANTS[what](work, out))


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.bench_train --rows 60 --repeats 3")
    parser.add_argument("--shape", choices=SHAPES, default="0.1B")
    parser.add_argument("--data", type=Path, metavar="FILE", help="chats (default: the pocket model's lessons)")
    parser.add_argument("--rows", type=int, default=60, help="chats, a fifth of them held out (default: 60)")
    parser.add_argument("--pack", type=int, default=2048, help="tokens in a pack and in a step (default: 2048)")
    parser.add_argument("--full", action="store_true", help="rows that fill a pack to the last token, instead of chats")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS), help="some of them")
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "JSON"), help="what each process is asked for")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(only(*options.only)))
        return
    shape, pack = SHAPES[options.shape], options.pack
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", shape)
        chats = full_rows(pack, options.rows) if options.full else chats_to_learn(options.data, options.rows)
        counts = make_rows(folder, chats, options.rows, pack)
        work = Work(folder=folder, pack=pack, rows_per_step=max(1, round(pack * counts["rows"] / counts["tokens"])))
        runs: dict[str, list[dict[str, Any]]] = {one: [] for one in CONTESTANTS if one in ["fulcrum", *options.against]}
        losses = {}
        for repeat in range(options.repeats):
            for number, (contestant, found) in enumerate(runs.items()):
                out = folder / f"{number}-{repeat}"
                found.append(in_a_process(contestant, work, out))
                print(f"{contestant}: {found[-1]['seconds']:.1f} s", file=sys.stderr)
                if repeat == 0:
                    losses[contestant] = in_a_process("loss", work, out)["loss"]
    report(runs, losses, counts, shape)


def report(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    losses: Mapping[str, float],
    counts: Mapping[str, int],
    shape: Shape,
) -> None:
    device = runs["fulcrum"][0]["device"]
    peak = next((flops for card, flops in PEAK.items() if card in device), None)
    table = Table(
        title=f"{device}: {counts['rows']} rows, {counts['tokens']:,} tokens, {counts['assistant']:,} of them the "
        "assistant's, one epoch"
    )
    last = "4N-MFU" if peak else "4N TFLOP/s"
    for column in (
        "",
        "assistant tok/s",
        "tok/s",
        "seconds",
        "peak GiB",
        "held-out loss",
        "fulcrum is faster by",
        last,
    ):
        table.add_column(column, justify="left" if not column else "right")
    ours = median(run["seconds"] for run in runs["fulcrum"])
    for contestant, found in runs.items():
        seconds = sorted(run["seconds"] for run in found)
        flops = shape.flops_per_token * counts["tokens"] / median(seconds)
        table.add_row(
            contestant,
            f"{counts['assistant'] / median(seconds):,.0f}",
            f"{counts['tokens'] / median(seconds):,.0f}",
            f"{median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})",
            f"{max(run['peak_gib'] for run in found):.2f}",
            f"{losses[contestant]:.4f}",
            f"{median(seconds) / ours:.2f}x",
            f"{flops / peak:.1%}" if peak else f"{flops / 1e12:.3f}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
