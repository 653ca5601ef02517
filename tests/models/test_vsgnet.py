"""The whole network: symmetry, memory format, precision, compilers."""

import pytest
import torch
from torch import nn

from configs.schema import ModelConfig, OptimConfig, VitConfig
from models.build import build_network
from models.vsgnet import VSGNet
from utils.training.optim import build_optimizer

NONE = VitConfig(name="none")


def network(**settings) -> VSGNet:
    torch.manual_seed(0)
    settings = {"size": "tiny", "rgb_vit": NONE, "structure_vit": NONE, **settings}
    config = ModelConfig(drop_path=0.0, head_dropout=0.0, **settings)
    return build_network(config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),))


def inputs(*size: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(batch, 3, *size, generator=generator),
        torch.rand(batch, 4, *size, generator=generator),
    )


@pytest.mark.parametrize("axis", [2, 3])
def test_a_flipped_input_gives_the_flipped_output(axis):
    """With its kernels flipped too: a 3x3 kernel itself has a left and a right.

    The sizes are 1 above a multiple of 32, where stride-2 grids have a middle.
    """
    net = network().eval()
    image, structure = inputs(65, 97)
    expected = net(image, structure).flip(axis)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.flip(axis))
    torch.testing.assert_close(
        net(image.flip(axis), structure.flip(axis)), expected, rtol=1e-4, atol=1e-5
    )


def test_swapping_height_and_width_swaps_the_output():
    net = network().eval()
    image, structure = inputs(65, 33)
    expected = net(image, structure).mT
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.mT.clone())
    torch.testing.assert_close(net(image.mT, structure.mT), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_inputs_scaled_by_1e3_stay_finite_in_half_precision(dtype, training):
    net = network().train(training)
    image, structure = (1e3 * x for x in inputs(64, 96))
    with torch.autocast("cpu", dtype=dtype):
        logits = net(image, structure)
    assert torch.isfinite(logits).all()
    logits.float().square().mean().backward()
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_every_convolution_sees_and_gives_channels_last():
    net = network()
    image, structure = (x.to(memory_format=torch.channels_last) for x in inputs(64, 96))
    wrong = []

    def look(module: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        for x in (args[0], out):
            if not x.is_contiguous(memory_format=torch.channels_last):
                wrong.append((module, tuple(x.shape), x.stride()))

    handles = [m.register_forward_hook(look) for m in net.modules() if isinstance(m, nn.Conv2d)]
    logits = net(image, structure)
    assert handles and not wrong, wrong
    assert logits.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recompute", [False, True])
def test_compiles_without_a_graph_break(recompute):
    torch.compiler.reset()
    net = network(recompute=recompute)
    image, structure = inputs(64, 64)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    logits = compiled(image, structure)
    logits.square().mean().backward()
    ours = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    expected = network(recompute=recompute)(image, structure)
    expected.square().mean().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(gradient).all() for gradient in ours.values())


def test_exports_with_free_height_and_width():
    net = network().eval()
    image, structure = inputs(64, 96, batch=1)
    height, width = torch.export.Dim("height", min=33), torch.export.Dim("width", min=33)
    free = {2: height, 3: width}
    program = torch.export.export(net, (image, structure), dynamic_shapes=(free, free))
    for size in ((64, 96), (65, 97), (101, 47), (256, 40)):
        image, structure = inputs(*size, batch=1)
        torch.testing.assert_close(
            program.module()(image, structure), net(image, structure), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"fe_branches": ("global_context",)},
        {"fe_branches": ("structure_gate",)},
        {"fe_branches": ("global_context", "structure_gate", "large_kernel")},
        {"fr_gates": "off"},
        {"fr_gates": "channel"},
    ],
    ids=str,
)
def test_every_switch_trains_every_parameter(settings):
    net = network(**settings)
    logits = net(*inputs(64, 64))
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weight).sum().backward()
    groups = build_optimizer(net, OptimConfig(lr=1.0, weight_decay=0.1)).param_groups
    optimised = {id(p) for group in groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        assert id(parameter) in optimised, name
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
