import pytest
import torch
from torch import nn

from utils.precision import Precision

CPU = torch.device("cpu")


def test_auto_is_fp32_on_the_cpu_and_bf16_on_cuda():
    assert Precision("auto", CPU).name == "fp32"
    assert Precision("auto", torch.device("cuda")).name == "bf16"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_precision_asked_for(name, dtype):
    with Precision(name, CPU).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_step_clips_the_sum_to_the_norm_and_clears_the_gradients(name):
    """Of the unscaled gradient: that of fp16 is scaled before."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data.zero_()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    precision = Precision(name, CPU)
    precision.backward(60 * net(torch.tensor([[3.0, 4.0]])).sum())
    precision.backward(40 * net(torch.tensor([[3.0, 4.0]])).sum())
    precision.step(net, optimizer, max_norm=1.0)
    torch.testing.assert_close(net.weight.data, torch.tensor([[-0.6, -0.8]]))
    assert net.weight.grad is None
    precision.backward(net(torch.tensor([[3.0, 4.0]])).sum())
    precision.step(net, optimizer, max_norm=0.0)
    torch.testing.assert_close(net.weight.data, torch.tensor([[-3.6, -4.8]]))


@pytest.mark.parametrize(
    ("name", "has_units", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
    ],
)
def test_frozen_vits_take_half_precision_where_the_cpu_has_units_for_it(
    name, has_units, expected, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_units)
    precision = Precision(name, torch.device("cpu"))
    assert precision.frozen_dtype == expected
    assert precision.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
