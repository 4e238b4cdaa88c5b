"""LoRA layers at their leanest: PEFT's numbers in fewer passes over memory.

PEFT computes `base(x) + B(A(dropout(x))) * scaling`: a float32 copy of x, a product, a scaling and a sum, each as large
as the activations. Here only the small inner activation is scaled, and the sum happens inside a matrix product, forward
and backward. Modules, names and files stay PEFT's. Knows nothing of losses or data.
"""

from types import MethodType
from typing import Any, Final

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear

ADAPTER: Final = "default"
"""PEFT's name for the one adapter."""


def make_lean(model: nn.Module) -> nn.Module:
    """Give every LoRA layer of the model the forward below."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.forward = MethodType(_forward, module)
    return model


def _forward(layer: Any, x: Tensor) -> Tensor:
    base, scale = layer.get_base_layer(), layer.scaling[ADAPTER]
    if layer.disable_adapters:
        result: Tensor = base(x)
        return result
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    if type(base) is nn.Linear:
        return lean_linear(x, base.weight, base.bias, a, b, scale)
    y = base(x)  # quantised: its product is its own
    rows = x.reshape(-1, x.shape[-1])
    return torch.addmm(y.reshape(len(rows), -1), (rows @ a.to(x.dtype).T) * scale, b.to(x.dtype).T).view_as(y)


def lean_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """x W' + bias + scale (x A') B' in W's dtype, W frozen; x [..., in], W [out, in], A [rank, in], B [out, rank]."""
    result: Tensor = _LeanLinear.apply(x, weight, bias, a, b, scale)  # type: ignore[no-untyped-call]
    return result


class _LeanLinear(Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, weight, bias, a, b, scale = given
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        inner = (rows @ a.T).mul_(scale)
        ctx.save_for_backward(rows, inner, weight, a, b)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return linear(rows, weight, bias).addmm_(inner, b.T).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, a, b = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        d_inner = (dy @ b).mul_(ctx.scale)
        dx = (dy @ weight).addmm_(d_inner, a).view(ctx.shape).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return dx, None, None, (d_inner.T @ rows).float(), (dy.T @ inner).float(), None
