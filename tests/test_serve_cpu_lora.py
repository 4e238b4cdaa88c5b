"""The operators alone; on a real engine they are in test_serve_live.py."""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from serve import cpu_lora
from serve.cpu_lora import NO_ADAPTER, add_lora_embedding, add_lora_linear, add_lora_logits, rows_by_adapter

ADAPTERS = 3


def test_vllms_own_operators_stay_in_a_version_that_ours_were_not_proven_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    class Theirs:
        def add_lora_linear(self) -> None: ...

    monkeypatch.setattr("vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU", Theirs)
    before = Theirs.add_lora_linear
    monkeypatch.setattr(cpu_lora, "version", lambda name: "0.99.0+cpu")
    cpu_lora.register()
    assert Theirs.add_lora_linear is before

    monkeypatch.setattr(cpu_lora, "version", version)
    cpu_lora.register()

    assert Theirs.add_lora_linear is cpu_lora.add_lora_linear  # this machine's version is one of the proven
    assert PunicaWrapperCPU is not Theirs


runs = st.lists(st.tuples(st.integers(NO_ADAPTER, ADAPTERS - 1), st.integers(1, 5)), min_size=1, max_size=6)


def batch(of: list[tuple[int, int]], is_prefill: bool = True) -> Any:
    """What vLLM's wrapper knows of a batch of runs (adapter, rows)."""
    adapters, lengths = (torch.tensor(column) for column in zip(*of, strict=True))
    each = adapters.repeat_interleave(lengths)
    metadata = (torch.tensor(0), lengths, adapters, len(of), int(lengths.max()), int(lengths.sum()))
    return SimpleNamespace(
        is_prefill=is_prefill, prefill_metadata=metadata, token_lora_indices=each, sampler_indices=each
    )


def stacked(random: np.random.Generator, out: int, inner: int) -> Tensor:
    return torch.tensor(random.normal(size=(ADAPTERS, 1, out, inner)), dtype=torch.float32)


def token_by_token(y: Tensor, x: Tensor, a: Tensor, b: Tensor, of: list[tuple[int, int]], scale: float) -> Tensor:
    """The definition, in float64: every token with the matrices of its own adapter."""
    result = y.double().clone()
    each = [adapter for adapter, length in of for _ in range(length)]
    for row, adapter in enumerate(each):
        if adapter != NO_ADAPTER:
            low = a[adapter, 0].double() @ x[row].double()
            result[row, : b.shape[2]] += scale * (b[adapter, 0].double() @ low)
    return result


@settings(max_examples=60)
@given(runs, st.booleans(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_linear_layer_is_adapted_as_defined_token_by_token(
    of: list[tuple[int, int]], is_prefill: bool, rank: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows, sizes = sum(length for _, length in of), (4, 6, 2)
    x, y = (torch.tensor(random.normal(size=(rows, n)), dtype=torch.float32) for n in (5, sum(sizes)))
    a, b = [stacked(random, rank, 5) for _ in sizes], [stacked(random, size, rank) for size in sizes]
    expected = torch.cat(
        [token_by_token(*parts, of, 0.5) for parts in zip(y.split(sizes, 1), [x] * 3, a, b, strict=True)], 1
    )

    add_lora_linear(batch(of, is_prefill), y, x, a, b, 0.5, sizes)

    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(runs, st.integers(0, 2**32 - 1), st.sampled_from([0, 3]))
def test_logits_are_adapted_as_defined_and_padding_stays(of: list[tuple[int, int]], seed: int, padding: int) -> None:
    random = np.random.default_rng(seed)
    rows = sum(length for _, length in of)
    x, y = (torch.tensor(random.normal(size=(rows, n)), dtype=torch.float32) for n in (5, 7 + padding))
    a, b = stacked(random, 2, 5), stacked(random, 7, 2)
    expected = token_by_token(y, x, a, b, of, 1.0)

    add_lora_logits(batch(of), y, x, a, b, 1.0)

    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


def test_an_embedding_gets_b_of_what_its_a_has_looked_up() -> None:
    random = np.random.default_rng(0)
    of = [(1, 2), (NO_ADAPTER, 1), (0, 1)]
    x, y = (torch.tensor(random.normal(size=(4, n)), dtype=torch.float32) for n in (2, 7))
    b = stacked(random, 7, 2)
    expected = token_by_token(y, x, torch.eye(2).expand(ADAPTERS, 1, 2, 2), b, of, 1.0)

    add_lora_embedding(batch(of), y, x, b)

    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


def test_rows_without_an_adapter_keep_every_bit() -> None:
    torch.manual_seed(0)
    y = torch.randn(5, 6, dtype=torch.bfloat16)
    before = y.clone()
    a, b = torch.randn(ADAPTERS, 1, 2, 4), torch.randn(ADAPTERS, 1, 6, 2)

    add_lora_linear(batch([(NO_ADAPTER, 2), (2, 1), (NO_ADAPTER, 2)]), y, torch.randn(5, 4), [a], [b], 1.0, [6])

    assert torch.equal(y[[0, 1, 3, 4]], before[[0, 1, 3, 4]])
    assert not torch.equal(y[2], before[2])


@pytest.mark.parametrize(
    ("adapters", "lengths", "rows"),
    [
        ((0,), (4,), {0: [0, 1, 2, 3]}),
        ((-1,), (4,), {}),
        ((0, -1, 0), (1, 2, 1), {0: [0, 3]}),
        ((2, 2, 1), (1, 2, 3), {2: [0, 1, 2], 1: [3, 4, 5]}),
    ],
)
def test_each_adapter_has_its_rows(
    adapters: tuple[int, ...], lengths: tuple[int, ...], rows: dict[int, list[int]]
) -> None:
    numbers = torch.arange(sum(lengths))

    assert {adapter: numbers[mine].tolist() for adapter, mine in rows_by_adapter(adapters, lengths)} == rows
