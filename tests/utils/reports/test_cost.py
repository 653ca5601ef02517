from dataclasses import replace

import pytest
import torch
from torch import nn

from configs.schema import ModelConfig, VitConfig
from models.build import build_network
from utils.precision import Precision
from utils.reports import cost as module
from utils.reports.cost import cost_facts, count_flops, count_parameters, measure_cost

CPU = torch.device("cpu")


class TwoInputs(nn.Module):
    """A convolution of each input, the second one frozen, and attention between their pixels."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(4, 8, 1).requires_grad_(False)
        self.shapes = []

    def forward(self, image, structure):
        self.shapes.append((tuple(image.shape), tuple(structure.shape)))
        q, k = (x.flatten(2).mT for x in (self.one(image), self.two(structure)))
        return nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], k[:, None])


def test_operations_equal_a_hand_count():
    """6x5 pixels: 9 * 3 and 4 products a channel, queries with keys and weights with values."""
    flops = count_flops(TwoInputs().eval(), [torch.rand(2, 3, 6, 5), torch.rand(2, 4, 6, 5)])
    pixels = 30
    assert flops == 2 * 2 * (pixels * 8 * (9 * 3 + 4) + 2 * pixels * pixels * 8)


@pytest.mark.parametrize("vit", [VitConfig(weights="random"), VitConfig(name="none")])
def test_operations_are_the_same_on_the_cpu_and_on_the_meta_device(vit):
    config = ModelConfig(size="tiny", rgb_vit=vit, structure_vit=vit)
    counts = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            network = build_network(
                config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),)
            ).eval()
            counts.append(count_flops(network, [torch.empty(1, c, 64, 96) for c in (3, 4)]))
    assert counts[0] == counts[1] > 1e6


def test_parameters_are_counted_apart():
    assert count_parameters(TwoInputs()) == (3 * 9 * 8 + 8, 4 * 8 + 8)


def measured(network, **changes):
    settings = {
        "channels": (3, 4),
        "window_px": (8, 6),
        "batch_size": 3,
        "precision": Precision("fp32", CPU),
        "device": CPU,
    }
    return measure_cost(network, **{**settings, **changes})


def test_windows_are_measured_one_by_one_and_together():
    network = TwoInputs().eval()
    cost = measured(network)
    assert set(network.shapes) == {((n, 3, 8, 6), (n, 4, 8, 6)) for n in (1, 3)}
    assert cost.window_px == (8, 6) and cost.batch_size == 3
    assert cost.flops == count_flops(network, [torch.rand(1, 3, 8, 6), torch.rand(1, 4, 8, 6)])
    assert 0 < cost.latency_s < 1 and cost.windows_per_s > 3
    assert cost.megapixels_per_s == pytest.approx(cost.windows_per_s * 48e-6)
    assert 0.05 < cost.peak_memory_gib < 100 and cost.num_threads == 1
    assert cost.precision == "fp32" and cost.versions["torch"] == torch.__version__


def test_half_precision_is_measured_as_it_is_used():
    seen = []

    class Probe(nn.Module):
        def forward(self, image, structure):
            seen.append(torch.is_autocast_enabled("cpu"))
            return image

    assert measured(Probe(), precision=Precision("bf16", CPU)).precision == "bf16"
    assert all(seen)


def test_a_slow_network_is_run_no_longer_than_it_must(monkeypatch):
    """A clock that takes two seconds a window: once to count, twice to time, then too late."""
    now = [0.0]

    class Slow(nn.Module):
        def forward(self, image, structure):
            now[0] += 2 * len(image)
            return image

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    cost = measured(Slow(), batch_size=4)
    assert (cost.latency_s, cost.batch_size, cost.windows_per_s) == (2, 1, 0.5)
    assert now[0] == 6


def test_a_throughput_of_fewer_windows_is_said_to_be_one(monkeypatch):
    now = [0.0]

    class Slow(nn.Module):
        def forward(self, image, structure):
            now[0] += 0.9 + 0.1 * len(image)
            return image

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    cost = measured(Slow(), batch_size=16)
    assert cost.batch_size == 2 and cost.windows_per_s == pytest.approx(2 / 1.1)


def test_facts_are_said_in_words():
    cost = replace(
        measured(TwoInputs().eval()),
        num_trainable=2_350_000,
        num_frozen=0,
        flops=8_349_875_200,
        latency_s=0.5741,
        windows_per_s=1.8,
        megapixels_per_s=0.47,
        peak_memory_gib=0.854,
        device="a CPU",
        versions={"python": "3.11.2", "torch": "2.14"},
    )
    assert cost_facts(cost) == {
        "parameters": "2.35 M trainable, 0.00 M frozen",
        "operations": "8.3 GFLOPs for a window of 8x6 px",
        "latency": "574.1 ms for such a window by itself",
        "throughput": "1.80 windows/s, 0.47 megapixels/s, 3 at a time",
        "peak memory": "0.85 GiB by the whole process, up to the end of the evaluation",
        "computed on": "a CPU, 1 thread, fp32",
        "versions": "python 3.11.2, torch 2.14",
    }
    assert "GiB by tensors, " in cost_facts(replace(cost, on_cuda=True))["peak memory"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_counts_what_a_cpu_counts():
    device = torch.device("cuda")
    here = measured(TwoInputs().eval())
    there = measured(
        TwoInputs().eval().to(device), device=device, precision=Precision("fp32", device)
    )
    assert there.flops == here.flops and there.on_cuda and there.peak_memory_gib < 1
