"""Parameters and operations of a network against counts by hand."""

import pytest
import torch
from torch import nn

from utils.precision import Precision
from utils.reports.cost import Cost, cost_of, count_flops


class TwoInputs(nn.Module):
    """A convolution of each input, the second one frozen, and attention between their pixels."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(4, 8, 1).requires_grad_(False)

    def forward(self, image, structure):
        q, k = (x.flatten(2).mT for x in (self.one(image), self.two(structure)))
        return nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], k[:, None])


# 8 x 6 pixels: 9 * 3 and 4 products a channel; queries by keys and weights by values.
FLOPS = 2 * (48 * 8 * (9 * 3 + 4) + 2 * 48 * 48 * 8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cost_is_that_of_one_window_in_any_precision(precision):
    network = TwoInputs().eval()
    cost = cost_of(
        network, [(3, 8, 6), (4, 8, 6)], (8, 6), Precision(precision, torch.device("cpu"))
    )
    assert cost == Cost(num_trainable=224, num_frozen=40, window_px=(8, 6), flops=FLOPS)
    # Attention is another operator on the meta device.
    inputs = [torch.empty(1, channels, 8, 6, device="meta") for channels in (3, 4)]
    assert count_flops(network.to("meta"), inputs) == FLOPS
