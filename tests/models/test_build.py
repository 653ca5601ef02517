"""The whole network as built from a recipe: sizes, switches, symmetry, precision, compilers."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from configs.schema import ModelConfig, OptimConfig, VitConfig
from models.build import SIZES, build_network, frozen_identities
from utils.training.optim import build_optimizer

RANDOM, NONE = VitConfig(name="test_vit", weights="random"), VitConfig(name="none")
DEFAULT = VitConfig(weights="random")
DINOV3 = VitConfig(name="vit_small_patch16_dinov3", weights="random")
LAST = replace(RANDOM, layers="last")
TWO_PICTURES = ((0, 1, 2), (3, 3, 3))


def network(
    size="tiny", vit=NONE, channels=4, pictures=((0, 1, 2),), dtype=torch.float32, **settings
):
    torch.manual_seed(0)
    settings = {"structure_vit": vit, "drop_path": 0.0, "head_dropout": 0.0, **settings}
    return build_network(
        ModelConfig(size=size, rgb_vit=vit, **settings),
        num_classes=5,
        structure_channels=channels,
        pictures=pictures,
        frozen_dtype=dtype,
    )


def inputs(*size: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(batch, 3, *size, generator=generator),
        torch.rand(batch, 4, *size, generator=generator),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"vit": RANDOM, "pictures": TWO_PICTURES},
        {"vit": RANDOM, "structure_vit": LAST},
        {"fe_branches": ("global_context",)},
        {"fe_branches": ("structure_gate",)},
        {"fe_branches": ("global_context", "structure_gate", "large_kernel")},
        {"fr_gates": "off"},
        {"fr_gates": "channel"},
    ],
    ids=str,
)
def test_every_switch_trains_every_parameter_and_fault_21_no_frozen_one(settings):
    net, (image, structure) = network(**settings), inputs(64, 64)
    logits = net.train()(image, structure.requires_grad_())
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weight).sum().backward()
    groups = build_optimizer(net, OptimConfig(lr=1.0, weight_decay=0.1)).param_groups
    optimised = [id(p) for group in groups for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    saved = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    for name, parameter in net.named_parameters():
        is_frozen = ".vit." in name
        assert parameter.requires_grad != is_frozen, name
        assert (id(parameter) in optimised) != is_frozen, name
        assert (id(parameter) in saved) != is_frozen, name
        if is_frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    # Fault 14: every structure channel reaches the logits.
    assert (structure.grad.abs().sum((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_any_size_and_a_batch_gives_what_its_images_give_one_by_one(size):
    net = network(vit=RANDOM).eval()
    image, structure = inputs(*size, batch=3)
    one_by_one = torch.cat([net(image[i : i + 1], structure[i : i + 1]) for i in range(3)])
    assert one_by_one.shape == (3, 5, *size)
    torch.testing.assert_close(net(image, structure), one_by_one, rtol=1e-4, atol=1e-5)


def calls_of(*vits: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """Every call of frozen ViTs from now on, with its pictures."""
    calls: list[tuple[nn.Module, Tensor]] = []
    for vit in vits:
        vit.register_forward_pre_hook(lambda vit, args: calls.append((vit, args[0])))
    return calls


def test_equal_vits_are_one_that_sees_all_pictures_of_both_branches_at_once():
    named = replace(RANDOM, name=SIZES["tiny"].structure_vit)
    net = network(vit=DEFAULT, structure_vit=named, pictures=TWO_PICTURES).eval()
    encoder, (image, structure) = net.encoder, inputs(64, 48)
    shared = encoder.rgb.vit
    assert shared is encoder.structure.vit
    calls = calls_of(shared)
    logits = net(image, structure)
    ((_, pictures),) = calls
    assert torch.equal(pictures, torch.cat([image, structure[:, :3], structure[:, [3, 3, 3]]]))
    encoder.structure.vit = copy.deepcopy(shared)  # a ViT of its own, with the same weights
    calls.clear()
    torch.testing.assert_close(net(image, structure), logits, rtol=1e-4, atol=1e-5)
    assert [(vit is shared, len(pictures)) for vit, pictures in calls] == [(True, 2), (False, 4)]


@pytest.mark.parametrize(
    "structure_vit",
    [LAST, replace(RANDOM, layers=(1, 2, 3, 4)), replace(RANDOM, input_scale=2.0), NONE],
    ids=str,
)
def test_vits_of_different_settings_are_two(structure_vit):
    net = network(vit=RANDOM, structure_vit=structure_vit)
    branches = (net.encoder.rgb, net.encoder.structure)
    vits = [branch.vit for branch in branches if branch.vit is not None]
    assert len(set(vits)) == (1 if structure_vit is NONE else 2)
    calls = calls_of(*vits)
    net(*inputs(32, 32))
    assert [vit for vit, _ in calls] == vits


@pytest.mark.parametrize(
    ("size", "vit", "structure_vit", "names"),
    [
        ("small", DEFAULT, DINOV3, ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"]),
        ("base", NONE, NONE, []),
        ("large", NONE, DEFAULT, ["vit_base_patch14_reg4_dinov2"]),
    ],
)
def test_a_size_builds_without_memory_with_its_vits(size, vit, structure_vit, names):
    with torch.device("meta"):
        net = network(size, vit, structure_vit=structure_vit)
        logits = net(torch.empty(1, 3, 64, 96), torch.empty(1, 4, 64, 96))
    assert logits.shape == (1, 5, 64, 96)
    assert all(parameter.is_meta for parameter in net.parameters())
    found = frozen_identities(net).values()
    assert [vit["name"] for vit in found if vit["sha256"] == "meta"] == names


def test_large_is_the_released_size():
    vits = ["vit_giant_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2"]
    fields = [(96, 192, 288, 576), (3, 3, 12, 2), (1, 2, 4, 8), (8, 8, 4, 4), 512, *vits]
    assert list(asdict(SIZES["large"]).values()) == fields


def test_drop_path_rises_linearly_over_all_blocks_and_inputs_are_normalised():
    with torch.device("meta"):
        net = network("small", drop_path=0.3)
    rates = [block.add.drop_path for stage in net.encoder.enhance for block in stage.blocks]
    assert rates == pytest.approx([0.3 * block / 9 for block in range(10)])
    encoder = network().encoder
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.stack([mean, mean + std]).view(2, 3, 1, 1)
    normalized = encoder.rgb.normalize(pixels)
    torch.testing.assert_close(normalized[:, :, 0, 0], torch.tensor([[0.0] * 3, [1.0] * 3]))
    structure = encoder.structure.normalize(torch.tensor([0.0, 0.5, 1.0]).expand(1, 4, 1, 3))
    assert structure[0, 0, 0].tolist() == [-2, 0, 2]


def test_settings_of_a_vit_reach_its_own_branch():
    other = replace(RANDOM, layers=(2, 3, 4, 6), input_scale=1.5)
    net = network(vit=LAST, structure_vit=other, dtype=torch.bfloat16)
    for branch, layers, scale in (
        (net.encoder.rgb, [5], 1.0),
        (net.encoder.structure, [1, 2, 3, 5], 1.5),
    ):
        vit = branch.vit
        assert (vit.layers, vit.input_scale, vit.dtype) == (layers, scale, torch.bfloat16)
    assert frozen_identities(net).keys() == {"rgb_vit", "structure_vit"}
    assert frozen_identities(network()) == {}


@pytest.mark.parametrize(
    "turn", [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.mT], ids=["2", "3", "transpose"]
)
def test_a_turned_input_gives_the_turned_output(turn):
    """With its kernels turned too: a 3x3 kernel itself has a left and a right.

    The sizes are 1 above a multiple of 32, where stride-2 grids have a middle.
    """
    net = network().eval()
    image, structure = inputs(65, 97)
    expected = turn(net(image, structure))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(turn(module.weight).clone())
    ours = net(turn(image), turn(structure))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "training"), [(torch.float16, True), (torch.float16, False), (torch.bfloat16, True)]
)
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

    def look(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        for x in (args[0], out):
            if not x.is_contiguous(memory_format=torch.channels_last):
                wrong.append((module, tuple(x.shape), x.stride()))

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    logits = net(image, structure)
    assert not wrong
    assert logits.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(one_stage, recompute):
    torch.compiler.reset()
    net = network(vit=RANDOM, recompute=recompute)
    logits = torch.compile(net, fullgraph=True, backend="eager")(*inputs(64, 64))
    logits.square().mean().backward()
    expected = network(vit=RANDOM, recompute=recompute)(*inputs(64, 64))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)


def test_fault_5_each_stage_runs_once_at_its_own_scale():
    net, seen = network(vit=RANDOM), []
    for module in [*net.encoder.enhance, *net.encoder.recalibrate]:
        module.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[1:])))
    net(*inputs(128, 61))
    sizes = [(16, 32, 16), (32, 16, 8), (48, 8, 4), (64, 4, 2)]
    assert seen == [size for size in sizes for _ in ("enhance", "recalibrate")]
