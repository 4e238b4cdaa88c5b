"""What a step computes: the loss of packs, the gradient of accumulation, who is trained and in which precision."""

import doctest
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.tiny import make_model
from tests.training_worker import random_samples, trained_a_little
from train import fit
from train.adapter import Adapter
from train.attention import PACKED, packed_attention, register
from train.door import TrainError
from train.fit import accumulate_gradients, mean_loss, rounded_to_export, set_up, step
from train.lean import lean_linear
from train.masking import Sample
from train.model import batch, head_loss, labelled_tokens, prove_packing, rows_before_head, trainable
from train.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    """Accelerate keeps its state in the process; every test here sets it up anew."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model", width=64)


def recipe(base: Path, **changes: object) -> Recipe:
    return Recipe(**{"model": str(base), "data": base, "name": "t", "dtype": "float32", "rank": 8} | changes)  # type: ignore[arg-type]


SAMPLES = random_samples([7, 30, 12, 55, 3, 21, 40, 18])


def gradient(model: nn.Module) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in trainable(model).values() if p.grad is not None])
    model.zero_grad()
    return found


def test_the_loss_of_a_pack_is_the_sum_of_transformers_losses_of_its_rows(base: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    expected = 0.0
    for sample in SAMPLES:
        labels = [token if labelled else -100 for token, labelled in zip(sample.tokens, sample.labelled, strict=True)]
        mean = theirs(input_ids=torch.tensor([sample.tokens]), labels=torch.tensor([labels])).loss.item()
        expected += mean * labelled_tokens([sample])

    ours = set_up(recipe(base), base).learner(batch(SAMPLES, CPU)).item()

    assert ours == pytest.approx(expected, rel=1e-5)


def test_packed_and_unpacked_rows_have_the_same_gradient(base: Path) -> None:
    learner = trained_a_little(set_up(recipe(base), base)).learner
    learner(batch(SAMPLES, CPU)).backward()
    packed = gradient(learner)

    for sample in SAMPLES:
        learner(batch([sample], CPU)).backward()

    assert torch.allclose(packed, gradient(learner), rtol=1e-4, atol=1e-5)


def test_a_row_does_not_see_its_neighbour_at_all(base: Path) -> None:
    model = set_up(recipe(base), base).model
    first, second, other = random_samples([20, 15, 20], seed=3)

    beside_first = rows_before_head(model, batch([first, second], CPU))[-labelled_tokens([second]) :]
    beside_other = rows_before_head(model, batch([other, second], CPU))[-labelled_tokens([second]) :]

    assert torch.equal(beside_first, beside_other)


def test_the_first_token_of_a_row_is_never_predicted_from_the_row_before_it() -> None:
    rows = [Sample(where="", tokens=(5, 6, 7), labelled=(True, True, True)) for _ in range(2)]

    pack = batch(rows, CPU)

    assert pack.predictors.tolist() == [0, 1, 3, 4]
    assert pack.targets.tolist() == [6, 7, 6, 7]
    assert pack.positions.tolist() == [[0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5])
def test_packed_attention_is_ordinary_attention_on_each_document(dtype: torch.dtype, window: int | None) -> None:
    torch.manual_seed(0)
    lengths = [1, 4, 9, 30]
    query, key, value = (torch.randn(1, heads, sum(lengths), 16, dtype=dtype) for heads in (4, 2, 2))
    starts = torch.tensor([0, 1, 5, 14, 44])

    found, _ = packed_attention(
        nn.Module(), query, key, value, None, cu_seq_lens_q=starts, max_length_q=30, scaling=0.25, sliding_window=window
    )

    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (tensor[0, :, start:end].float() for tensor in (query, key, value))
        scores = 0.25 * q @ k.repeat_interleave(2, 0).transpose(1, 2)
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (distance < 0) | (distance >= (window or 1000))
        expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(2, 0)
        tolerance = 1e-6 if dtype is torch.float32 else 3e-2
        assert torch.allclose(found[0, start:end].transpose(0, 1).float(), expected, atol=tolerance)


def test_attention_that_would_be_wrong_is_refused() -> None:
    query = torch.randn(1, 2, 4, 8)

    with pytest.raises(TrainError, match="needs softcap"):
        packed_attention(nn.Module(), query, query, query, None, cu_seq_lens_q=torch.tensor([0, 4]), softcap=50.0)


def test_a_model_whose_rows_see_each_other_is_refused(base: Path) -> None:
    model = set_up(recipe(base), base).model.get_base_model()
    AttentionInterface.register(PACKED, sdpa_attention_forward)

    try:
        with pytest.raises(TrainError, match=r"change by .* when it is packed beside another"):
            prove_packing(model)
    finally:
        register()


def test_a_pack_without_rows_adds_nothing(base: Path) -> None:
    trainer = set_up(recipe(base), base)
    losses = accumulate_gradients(trainer, [SAMPLES[:2], []], labelled_tokens(SAMPLES[:2]))
    with_empty = gradient(trainer.model)

    accumulate_gradients(trainer, [SAMPLES[:2]], labelled_tokens(SAMPLES[:2]))

    assert losses[1] == 0
    assert torch.equal(with_empty, gradient(trainer.model))


def test_the_evaluation_loss_does_not_depend_on_packing(base: Path) -> None:
    trainer = set_up(recipe(base), base)

    losses = [mean_loss(trainer, SAMPLES, budget) for budget in (55, 100, 10_000)]

    mean = trainer.learner(batch(SAMPLES, CPU)).item() / labelled_tokens(SAMPLES)
    assert losses == pytest.approx([mean] * 3, rel=1e-6)
    assert mean_loss(trainer, [], 100) is None


def test_steps_lower_the_loss_and_move_every_layer(base: Path) -> None:
    trainer = set_up(recipe(base), base)

    losses = [step(trainer, [SAMPLES[:4], SAMPLES[4:]], rate=5e-3)[0] for _ in range(8)]

    assert losses[-1] < losses[0] - 0.3
    assert all(matrix.any() for matrix in Adapter.of(trainer.model).matrices.values())


def test_only_adapters_are_trained_in_float32_in_every_linear_layer_but_the_head(base: Path) -> None:
    trainer = set_up(recipe(base, dtype="bfloat16"), base)
    named = dict(trainer.model.named_parameters())

    learning = {name for name, parameter in named.items() if parameter.requires_grad}

    layers = {name.split(".")[-4] for name in learning}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all("lora_A" in name or "lora_B" in name for name in learning)
    assert {named[name].dtype for name in learning} == {torch.float32}
    assert {parameter.dtype for name, parameter in named.items() if name not in learning} == {torch.bfloat16}


def test_the_seed_determines_the_adapter(base: Path) -> None:
    def first_matrix(seed: int) -> torch.Tensor:
        return next(iter(trainable(set_up(recipe(base, seed=seed), base).model).values()))

    assert torch.equal(first_matrix(0), first_matrix(0))
    assert not torch.equal(first_matrix(0), first_matrix(1))


def test_nf4_quantises_linear_layers_and_nothing_else(base: Path) -> None:
    trainer = set_up(recipe(base, quantize="nf4", dtype="bfloat16"), base)
    model = trainer.model.get_base_model()

    kinds = {name.split(".")[-2]: parameter.dtype for name, parameter in model.named_parameters() if "lora" not in name}

    state = model.model.layers[0].mlp.up_proj.base_layer.weight.quant_state
    assert state.quant_type == "nf4"
    assert state.nested
    assert kinds["embed_tokens"] == kinds["norm"] == torch.bfloat16


def test_the_gradient_through_nf4_is_that_through_the_weights_it_stands_for(base: Path) -> None:
    quantised = set_up(recipe(base, quantize="nf4"), base)
    mean_loss(quantised, SAMPLES, 100)
    plain = set_up(recipe(base), base)
    for ours, theirs in zip(_base_layers(plain.model), _base_layers(quantised.model), strict=True):
        ours.weight.copy_(dequantize_4bit(theirs.weight.data, theirs.weight.quant_state))
    losses, gradients = [], []

    for trainer in (quantised, plain):
        losses.append(accumulate_gradients(trained_a_little(trainer), [SAMPLES], 100).item())
        gradients.append(gradient(trainer.model))

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def _base_layers(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith("base_layer")]


def test_a_loss_that_is_not_a_number_stops_the_training_and_names_the_rows(base: Path) -> None:
    trainer = set_up(recipe(base), base)
    model = trainer.model.get_base_model()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    model.model.embed_tokens.weight[SAMPLES[3].tokens[0]] = torch.nan
    before = [parameter.clone() for parameter in trainable(trainer.model).values()]

    with pytest.raises(TrainError, match=r"the loss is not a finite number.*chats.jsonl:4, chats.jsonl:5\. "):
        step(trainer, [SAMPLES[:3], SAMPLES[3:5], SAMPLES[5:]], rate=1e-3)

    assert all(map(torch.equal, before, trainable(trainer.model).values()))


def test_what_is_evaluated_is_what_is_saved_and_training_goes_on_with_the_exact_numbers(base: Path) -> None:
    trainer = trained_a_little(set_up(recipe(base), base))
    exact = {name: matrix.detach().clone() for name, matrix in trainable(trainer.model).items()}

    with rounded_to_export(trainer):
        live = [matrix.detach().clone() for matrix in trainable(trainer.model).values()]
        saved = list(Adapter.of(trainer.model).matrices.values())

    assert {matrix.dtype for matrix in saved} == {torch.bfloat16}
    assert all(map(torch.equal, live, (matrix.float() for matrix in saved)))
    assert all(torch.equal(exact[name], matrix) for name, matrix in trainable(trainer.model).items())
    assert any(not torch.equal(*pair) for pair in zip(live, exact.values(), strict=True))


def test_a_layer_that_does_not_move_in_the_first_step_stops_the_training(base: Path) -> None:
    trainer = set_up(recipe(base), base)
    layer = trainer.model.get_base_model().model.layers[1].mlp.up_proj
    layer.forward = layer.get_base_layer().forward  # what a wrapper that hides a layer does
    before = {name: matrix.detach().clone() for name, matrix in trainable(trainer.model).items()}

    step(trainer, [SAMPLES], rate=1e-3)

    with pytest.raises(TrainError, match=r"1 layers of the adapter did not move in the first step.*1.mlp.up_proj"):
        fit._refuse_still_layers(trainer, before)


def test_lean_layers_give_pefts_numbers(base: Path) -> None:
    trainer = trained_a_little(set_up(recipe(base), base))
    trainer.learner(batch(SAMPLES, CPU)).backward()
    lean = gradient(trainer.model)

    for module in trainer.model.modules():
        if isinstance(module, LoraLayer):
            module.__dict__.pop("forward")  # PEFT's own stands in the class
    trainer.learner(batch(SAMPLES, CPU)).backward()

    assert torch.allclose(lean, gradient(trainer.model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_lean_layer_is_as_near_to_float64_as_the_plain_formula(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(*shape, dtype=torch.float64) for shape in ((2, 50, 64), (96, 64), (96,), (8, 64), (96, 8))]
    exact[2] = exact[2] if bias else None
    outputs = torch.randn(2, 50, 96, dtype=torch.float64)

    def gradients(inputs: list[torch.Tensor | None], layer: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        x, weight, b, low, high = (None if tensor is None else tensor.clone() for tensor in inputs)
        learnt = [tensor.requires_grad_() for tensor in (x, low, high)]
        y = layer(x, weight, b, low, high, 2.0)
        (y * outputs.to(y.dtype)).sum().backward()
        return [y.detach().double(), *(tensor.grad.double() for tensor in learnt)]

    def plain(x, weight, b, low, high, scale):  # type: ignore[no-untyped-def]
        return linear(x, weight, b) + linear(linear(x, low.to(x.dtype)), high.to(x.dtype)) * scale

    rounded = [tensor if tensor is None else tensor.to(dtype) for tensor in exact[:3]]
    given = [*rounded, *(tensor.float() for tensor in exact[3:])]
    truth = gradients([tensor if tensor is None else tensor.double() for tensor in given], plain)
    lean, usual = gradients(given, lean_linear), gradients(given, plain)

    for ours, theirs, true in zip(lean, usual, truth, strict=True):
        error, usual_error = ((found - true).norm() / true.norm() for found in (ours, theirs))
        assert error <= 1.5 * usual_error + 1e-6


def test_the_loss_of_a_head_in_chunks_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(37, 16, requires_grad=True), torch.randn(50, 16)
    targets = torch.randint(0, 50, (37,))
    expected = cross_entropy(rows @ weight.T, targets, reduction="sum")
    expected.backward()
    wanted, rows.grad = rows.grad, None
    monkeypatch.setattr("train.model.CHUNK", 50 * 10)

    found = head_loss(rows, weight, targets)
    (2 * found).backward()

    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(rows.grad, 2 * wanted, rtol=1e-5, atol=1e-6)


def test_compiled_layers_compute_the_same(base: Path) -> None:
    plain, compiled = (trained_a_little(set_up(recipe(base, compile=flag), base)) for flag in (False, True))

    losses = [trainer.learner(batch(SAMPLES, CPU)) for trainer in (plain, compiled)]
    for loss in losses:
        loss.backward()

    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert torch.allclose(gradient(plain.model), gradient(compiled.model), rtol=1e-3, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank_and_loraplus_speeds_up_b(base: Path) -> None:
    plain, changed = (set_up(recipe(base, **changes), base) for changes in ({}, {"rslora": True, "loraplus_ratio": 16}))

    scales = [next(m for m in t.model.modules() if isinstance(m, LoraLayer)).scaling for t in (plain, changed)]
    step(changed, [SAMPLES], rate=1e-3)

    assert scales == [{"default": 32 / 8}, {"default": pytest.approx(32 / 8**0.5)}]
    assert [group["lr"] for group in changed.optimizer.param_groups] == [1e-3, 16e-3]
    a, b = (group["params"] for group in changed.optimizer.param_groups)
    assert {p.shape[0] for p in a} == {8}
    assert {p.shape[1] for p in b} == {8}


def test_the_learning_rate_is_as_in_its_text() -> None:
    assert doctest.testmod(fit).failed == 0
