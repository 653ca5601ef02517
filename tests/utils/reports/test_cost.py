"""Parameters and operations of a network against counts by hand."""

import pytest
import torch
from torch import nn

from configs.schema import ModelConfig, VitConfig
from models.build import build_network
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
    cost = cost_of(network, (3, 4), (8, 6), Precision(precision, torch.device("cpu")))
    assert cost == Cost(num_trainable=224, num_frozen=40, window_px=(8, 6), flops=FLOPS)


def test_operations_are_the_same_on_the_cpu_and_on_the_meta_device():
    """Attention of a ViT is another operator on each of them."""
    vit = VitConfig(weights="random")
    config = ModelConfig(size="tiny", rgb_vit=vit, structure_vit=vit)
    sizes = {"num_classes": 5, "structure_channels": 4, "pictures": ((0, 1, 2),)}
    counts = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            network = build_network(config, **sizes).eval()
            counts.append(count_flops(network, [torch.empty(1, c, 64, 96) for c in (3, 4)]))
    assert counts[0] == counts[1] > 1e6
