"""A Qwen3-shaped chat model with random weights, and LoRA adapters for it: a second to make, a few MB, no torch.

It talks nonsense, but through the real tokenizer, template and layers. Knows nothing of what is tested with it.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG: Final[dict[str, Any]] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}


def make_model(folder: Path, width: int = CONFIG["hidden_size"]) -> Path:
    """Write config, weights, tokenizer and chat template."""
    folder.mkdir(parents=True)
    config = CONFIG | {"hidden_size": width}
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, 0.05, shape) for name, shape in _shapes(config) if len(shape) == 2}
    norms = {name: np.ones(shape) for name, shape in _shapes(config) if len(shape) == 1}
    _save(weights | norms, folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def make_adapter(folder: Path, model: Path, rank: int = 8, scale: float = 0.05, seed: int = 1) -> Path:
    """Write a PEFT adapter for all linear layers; with `scale` 0 it changes nothing."""
    folder.mkdir(parents=True)
    config = json.loads((model / "config.json").read_text())
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in _shapes(config):
        if "_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            weights[f"{stem}.lora_A.weight"] = random.normal(0, 0.05, (rank, shape[1]))
            weights[f"{stem}.lora_B.weight"] = random.normal(0, 1, (shape[0], rank)) * scale
    _save(weights, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({name.split(".")[-3] for name in weights}),
        "base_model_name_or_path": str(model),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def _shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    attention, head = heads * config["head_dim"], config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], width)
    yield "model.norm.weight", (width,)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        yield from ((f"{layer}.{name}_layernorm.weight", (width,)) for name in ("input", "post_attention"))
        yield from ((f"{layer}.self_attn.{name}_norm.weight", (head,)) for name in "qk")
        yield from ((f"{layer}.self_attn.{name}_proj.weight", (attention, width)) for name in "qkv")
        yield f"{layer}.self_attn.o_proj.weight", (width, attention)
        yield from ((f"{layer}.mlp.{name}_proj.weight", (inner, width)) for name in ("gate", "up"))
        yield f"{layer}.mlp.down_proj.weight", (width, inner)


@cache
def _tokenizer() -> Tokenizer:
    """Byte-level BPE, learnt from Python's own help texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    return tokenizer


def _save(weights: dict[str, Any], file: Path) -> None:
    save_file({name: value.astype(np.float32) for name, value in weights.items()}, file, metadata={"format": "pt"})
