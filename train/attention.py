"""Attention over packs in which no document sees another: one call a document on the CPU, one varlen call on CUDA.

Registered with transformers under the name PACKED. Needs no mask, which for a pack of n tokens would have n^2 entries.
Knows nothing of training.
"""

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from train.door import TrainError

PACKED: Final = "fulcrum_packed"

NOT_HERE: Final = ("softcap", "s_aux", "position_bias")
"""Inputs of some models' attention (Gemma 2, gpt-oss, T5) that change its result and are not implemented here."""

SHORT: Final = 768
"""Up to this length two products and a softmax beat the fused CPU kernel in bfloat16: forward and backward of 512
tokens (8 heads of 32) take 8 ms of one core instead of 16; at 1024 they lose. The gradient of a pocket model is then
3.2 % from the float32 one instead of 1.9 %."""


def register() -> None:
    """Make PACKED a legal `attn_implementation`; for one that it does not know, transformers builds no mask."""
    AttentionInterface.register(PACKED, packed_attention)


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Causal attention within each document; tensors are [1, heads, tokens, size], the result [1, tokens, heads, size].

    `given` holds transformers' names: cu_seq_lens_q (where documents start), max_length_q, scaling, sliding_window.
    """
    if missing := [name for name in NOT_HERE if given.get(name) is not None]:
        raise TrainError(f"{type(module).__name__} needs {', '.join(missing)}, which packed attention does not have")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, given), None
    lengths = given["cu_seq_lens_q"].diff().tolist()
    documents = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    attended = [_causal(q, k, v, given.get("scaling"), given.get("sliding_window")) for q, k, v in documents]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """One document: each token sees itself and what came before it, at most `window` tokens in all."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) if groups > 1 else tensor for tensor in (key, value))
    length = query.shape[2]
    if window is None or length <= window:
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and length <= SHORT:
            return _by_products(query, key, value, scaling or query.shape[3] ** -0.5)
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    band = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(query, key, value, attn_mask=band, scale=scaling)


def _by_products(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The textbook's way, with scores rounded to bfloat16, as in the models' own `eager` attention."""
    length = query.shape[2]
    scores = torch.baddbmm(_future()[:length, :length], query[0], key[0].transpose(1, 2), alpha=scaling)
    return torch.bmm(scores.softmax(dim=-1), value[0]).unsqueeze(0)


@cache
def _future() -> Tensor:
    """What is added to scores to hide the tokens to come."""
    return torch.full((SHORT, SHORT), float("-inf"), dtype=torch.bfloat16).triu(1)


def _varlen(query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]) -> Tensor:
    """All documents in one kernel. Not yet run on a GPU: `prove_packing` refuses to train with it if it is wrong."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest, window = given["cu_seq_lens_q"], given["max_length_q"], given.get("sliding_window")
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    attended = varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        scale=given.get("scaling"),
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)  # a tuple only when more is asked for
    return attended.unsqueeze(0)
