"""Build the pocket model from nothing: tokenizer, pretraining on lessons, per-skill accuracy, model card.

Run as `make pocket` (or `python -m scripts.pocket.build`); stopping it loses at most a minute, the same command goes on.
Knows nothing of the demo's questions: its validation lessons come from worlds of their own.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from retrieval.console import Parser
from scripts.pocket.lessons import EASY, FULL, Chat, Lesson, lessons

HERE: Final = Path(__file__).parent
TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY: Final = 2048
TOKENS_PER_STEP: Final = 8192
POOL: Final = 1500
"""Chats drawn at once, sorted by length into batches, so that little is padded."""
PROMPT_WEIGHT: Final = 0.1
"""Loss weight of a prompt's tokens; answers weigh 1."""
WORDS: Final = 0.2
DRILLS: Final = 0.2
READING: Final = 0.15
"""The curriculum, in shares of the steps: easy lessons, until words mean something; copying drills; easy lessons again,
which are now read; and then all lessons. DECISIONS.md has what was seen in another order."""
HEADER, PROMPT, ANSWER = 0, 1, 2


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, in which what has to be copied is written the same everywhere: digits stay single, and a name is the
    same tokens after a space, a quotation mark or nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" (?=[A-Z])"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    chats = islice(lessons(Random(f"tokenizer-{seed}")), 12_000)
    tokenizer.train_from_iterator((m["content"] for _, chat in chats for m in chat), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = TEMPLATE
    wrapped.model_max_length = 4096
    return wrapped


def make_model(seed: int, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=32,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Batch:
    """Chats padded to one length: ids, and what each token is part of, each (chats, tokens)."""

    ids: torch.Tensor
    parts: torch.Tensor


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> tuple[list[int], list[int]]:
    """Token ids, and for each whether it is of a header (never learnt), a prompt, or an answer with its end-of-turn mark."""
    ids: list[int] = []
    parts: list[int] = []
    for message in chat:
        said = message["role"] == "assistant"
        header, body = f"<|im_start|>{message['role']}\n", f"{message['content']}<|im_end|>"
        for text, part in ((header, HEADER), (body, ANSWER if said else PROMPT), ("\n", HEADER)):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += tokens
            parts += [part] * len(tokens)
    return ids, parts


def curriculum(tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> Iterator[Batch]:
    """A batch a step, the same for the same seed and steps."""
    words, copying, reading = (int(share * steps) for share in (WORDS, DRILLS, READING))
    easy = lesson_batches(tokenizer, EASY, f"easy-{seed}")
    yield from islice(easy, words)
    yield from islice(drills(seed), copying)
    yield from islice(easy, reading)
    yield from lesson_batches(tokenizer, FULL, f"lessons-{seed}")


def drills(seed: int) -> Iterator[Batch]:
    """Random tokens written twice, of which only the second writing is learnt: there is nothing to do but copy."""
    random = torch.Generator().manual_seed(seed)
    while True:
        length = int(torch.randint(8, 33, (1,), generator=random))
        once = torch.randint(3, VOCABULARY, (TOKENS_PER_STEP // 4 // length, length), generator=random)
        parts = torch.tensor([HEADER] * (length + 1) + [ANSWER] * (length - 1))
        yield Batch(torch.cat([once, once], 1), parts.expand(len(once), -1))


def lesson_batches(tokenizer: PreTrainedTokenizerFast, trades: Mapping[Lesson, float], seed: str) -> Iterator[Batch]:
    """Endless batches of about TOKENS_PER_STEP tokens."""
    random = Random(seed)
    stream = lessons(random, trades)
    while True:
        pool = sorted((encode(tokenizer, chat) for _, chat in islice(stream, POOL)), key=lambda row: len(row[0]))
        made = []
        while pool:
            longest = len(pool[-1][0])
            taken = max(1, TOKENS_PER_STEP // longest)
            rows, pool = pool[-taken:], pool[:-taken]
            made.append(pad(rows, longest))
        random.shuffle(made)
        yield from made


def pad(rows: list[tuple[list[int], list[int]]], longest: int) -> Batch:
    """Padding counts as header: never learnt."""
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    parts = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, (row, row_parts) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        parts[i, : len(row)] = torch.tensor(row_parts)
    return Batch(ids, parts)


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of each next token; padding is on the right, so causal attention needs no mask."""
    logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = torch.tensor([0.0, PROMPT_WEIGHT, 1.0])[batch.parts[:, 1:].flatten()]
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def advance(model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """One optimiser step at this rate."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def make_optimizers(model: Qwen3ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices (Jordan 2024; step size matched to AdamW's after Liu et al. 2025), AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 2 %, then linear decay to nothing."""
    return peak * min(step / (0.02 * steps), (steps - step) / (0.98 * steps), 1.0)


def pretrain(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, work: Path, peak: float, seed: int
) -> dict[str, Any]:
    """Train to `steps`, from the checkpoint in `work` if there is one. Returns tokens and seconds spent so far."""
    optimizers = make_optimizers(model, peak)
    state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0}
    saved = work / "checkpoint.pt"
    if saved.exists():
        held = torch.load(saved, weights_only=True)
        model.load_state_dict(held["model"])
        for optimizer, held_state in zip(optimizers, held["optimizers"], strict=True):
            optimizer.load_state_dict(held_state)
        state = held["state"]
    stream = islice(curriculum(tokenizer, steps, seed), state["step"], None)
    compiled = torch.compile(model, dynamic=True)
    start, before, smooth = time.time(), state["seconds"], math.nan
    bar = tqdm(total=steps, initial=state["step"], unit="step", smoothing=0.05)
    while state["step"] < steps:
        batch = next(stream)
        loss = loss_of(compiled, batch)
        loss.backward()
        advance(model, optimizers, rate_at(state["step"] + 1, steps, peak))
        state["step"] += 1
        state["tokens"] += batch.ids.numel()
        state["seconds"] = before + time.time() - start
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        bar.update()
        bar.set_postfix(loss=f"{smooth:.3f}", tokens=f"{state['tokens'] / 1e6:.1f}M")
        if state["step"] % 25 == 0 or state["step"] == steps:
            _save(saved, model, optimizers, state)
        if state["step"] % 500 == 0:
            tqdm.write(
                f"step {state['step']}: "
                + "  ".join(f"{k} {v:.2f}" for k, v in accuracy(model, tokenizer, 100, seed).items())
            )
    bar.close()
    return state


def _save(path: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]) -> None:
    beside = path.with_suffix(".tmp")
    torch.save(
        {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "state": state}, beside
    )
    beside.replace(path)


@torch.no_grad()
def accuracy(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> dict[str, float]:
    """Per trade, the share of last answers that greedy decoding writes to the letter, in worlds that training never saw."""
    right: dict[str, list[bool]] = {}
    model.eval()
    for trade, chat in islice(lessons(Random(f"validation-{seed}")), count):
        prompt = tokenizer.apply_chat_template(
            chat[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**prompt, max_new_tokens=80, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        text = tokenizer.decode(said, skip_special_tokens=True)
        right.setdefault(trade, []).append(text == chat[-1]["content"])
    model.train()
    return {trade: sum(marks) / len(marks) for trade, marks in sorted(right.items())}


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The folder any loader takes: bf16 safetensors, config, tokenizer with its chat template."""
    half = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.generation_config.eos_token_id = tokenizer.eos_token_id
    half.generation_config.pad_token_id = tokenizer.pad_token_id
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_card(folder: Path, state: dict[str, Any], skills: dict[str, float], count: int, seed: int) -> None:
    rows = "\n".join(f"| {trade} | {share:.2f} |" for trade, share in skills.items())
    size = (folder / "model.safetensors").stat().st_size / 1e6
    (folder / "README.md").write_text(
        f"""# Pocket

A very small reader for trying Fulcrum without a GPU or a model hub: Qwen3 architecture, 6 layers of width 256, vocabulary {VOCABULARY},
context 4,096, {size:.1f} MB in bf16. It copies answers out of passages; it knows no facts and little English.

**Data.** Only lessons that `scripts/pocket/lessons.py` generates (seed {seed}), about made-up worlds; no text from anywhere else. The
house format of the demo's answers and the facts of its world are in none of them.
**Training.** {state["tokens"] / 1e6:.1f} M tokens (padding included), {state["step"]} steps, {state["seconds"] / 60:.0f} minutes on two CPU cores. `make pocket` does it again.

Share of answers written to the letter, on {count} lessons in worlds that training never saw:

| trade | accuracy |
| --- | --- |
{rows}
"""
    )
    (folder / "training.json").write_text(
        json.dumps({"seed": seed, "count": count, **state, "accuracy": skills}, indent=2) + "\n"
    )


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.pocket.build --steps 2000")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "out" / "pocket")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(options.seed)
    model = make_model(options.seed, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; checkpoints in {options.work}")
    state = pretrain(model, tokenizer, options.steps, options.work, options.rate, options.seed)
    save_model(model, tokenizer, options.out)
    skills = accuracy(model, tokenizer, 1000, options.seed)
    write_card(options.out, state, skills, 1000, options.seed)
    print("  ".join(f"{trade} {share:.2f}" for trade, share in skills.items()))
    print(f"wrote {options.out}; `make demo` uses it")


if __name__ == "__main__":
    main()
