"""Size of a network: parameters and floating-point operations, counted rather than measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.precision import Precision

Shape = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters of a network and operations of one window."""

    num_trainable: int  # parameters
    num_frozen: int
    window_px: tuple[int, int]  # height and width
    flops: int  # of one window; a multiplication and an addition count as two


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of frozen parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    trainable = sum(size for size, requires_grad in sizes if requires_grad)
    return trainable, sum(size for size, _ in sizes) - trainable


def count_flops(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Return the operations of one forward pass, the same on every device, meta included.

    Counts matrix products, convolutions and attention, as ``torch.utils.flop_counter`` does: a
    multiplication and an addition are two.
    """
    # The counter does not know the operator that computes attention on a CPU.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, torch.inference_mode():
        network(*inputs)
    return counter.get_total_flops()


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Return the operations of queries ``(..., N, D)`` by keys and of weights by values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def cost_of(
    network: nn.Module, shapes: Sequence[Shape], window_px: tuple[int, int], precision: Precision
) -> Cost:
    """Count the parameters of a network and the operations of one forward pass.

    Args:
        network: in eval mode.
        shapes: of its inputs for one window, without the batch.
        window_px: height and width of the window.
        precision: of the forward pass.
    """
    trainable, frozen = count_parameters(network)
    device = next(network.parameters()).device
    inputs = [torch.zeros((1, *shape), device=device) for shape in shapes]
    with precision.autocast():
        flops = count_flops(network, inputs)
    return Cost(num_trainable=trainable, num_frozen=frozen, window_px=window_px, flops=flops)


def cost_facts(cost: Cost) -> dict[str, str]:
    """Return the figures as text by name, in display order."""
    height, width = cost.window_px
    millions = f"{cost.num_trainable / 1e6:.2f} M trainable, {cost.num_frozen / 1e6:.2f} M frozen"
    return {
        "parameters": millions,
        "operations": f"{cost.flops / 1e9:.1f} GFLOPs per window of {height}x{width} px",
    }
