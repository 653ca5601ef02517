"""The whole network as built from a recipe: sizes, switches, symmetry, precision, compilers."""

import pytest
import torch
from torch import Tensor, nn

from configs.schema import ModelConfig, OptimConfig, VitConfig
from models.build import SIZES, build_network, frozen_identities
from models.encoder import JOINS
from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement
from utils.errors import MissingDataError
from utils.training.optim import build_optimizer

RANDOM, NONE = VitConfig(name="test_vit", weights="random"), VitConfig(name="none")


def network(
    size="tiny",
    vit=RANDOM,
    channels=4,
    pictures=((0, 1, 2),),
    frozen_dtype=torch.float32,
    **settings,
):
    torch.manual_seed(0)
    config = ModelConfig(
        size=size, rgb_vit=vit, structure_vit=vit, drop_path=0.0, head_dropout=0.0, **settings
    )
    return build_network(
        config,
        num_classes=5,
        structure_channels=channels,
        pictures=pictures,
        frozen_dtype=frozen_dtype,
    )


def inputs(*size: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(batch, 3, *size, generator=generator),
        torch.rand(batch, 4, *size, generator=generator),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("vit", [RANDOM, NONE], ids=["vit", "stem alone"])
def test_every_trainable_parameter_gets_a_gradient_and_is_optimised_once(size, vit):
    net = network(size, vit)
    logits = net(torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64))
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weight).sum().backward()
    optimizer = build_optimizer(net, OptimConfig(lr=1.0, weight_decay=0.1))
    optimised = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    for name, parameter in net.named_parameters():
        assert (id(parameter) in optimised) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 70), (64, 31)])
def test_height_and_width_are_free(height, width):
    net = network().eval()
    logits = net(torch.rand(1, 3, height, width), torch.rand(1, 4, height, width))
    assert logits.shape == (1, 5, height, width)
    assert torch.isfinite(logits).all()


def test_a_batch_gives_what_its_images_give_one_by_one():
    net = network().eval()
    image, structure = torch.rand(3, 3, 48, 64), torch.rand(3, 4, 48, 64)
    one_by_one = torch.cat([net(image[i : i + 1], structure[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(image, structure), one_by_one, rtol=1e-4, atol=1e-5)


def test_two_modalities_show_the_structure_vit_two_pictures():
    net = network(channels=5, pictures=((0, 1, 2), (4, 4, 4))).eval()
    structure = torch.rand(1, 5, 32, 32)
    changed = structure.clone()
    changed[:, 4] = 0
    embedding = net.encoder.structure
    assert len(embedding.joins) == 2
    torch.manual_seed(0)
    joined = embedding(structure) - embedding.stem(embedding.normalize(structure))
    joined_changed = embedding(changed) - embedding.stem(embedding.normalize(changed))
    assert (joined - joined_changed).abs().max() > 1e-4


def test_missing_weights_are_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError) as error:
        network("small", VitConfig())
    assert str(error.value) == (
        "the weights of vit_small_patch14_reg4_dinov2 are not at "
        "weights/dinov2_vits14_reg4_pretrain.pth; get dinov2_vits14_reg4_pretrain.pth from "
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth "
        "(licence: apache-2.0) and put it there, or run train.py (frozen ViTs) or generate.py "
        "(generators) with --download"
    )


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_size_builds_without_memory(size):
    with torch.device("meta"):
        net = network(size, VitConfig(weights="random"))
        logits = net(torch.empty(1, 3, 64, 96), torch.empty(1, 4, 64, 96))
    assert logits.shape == (1, 5, 64, 96)
    assert all(parameter.is_meta for parameter in net.parameters())


def test_large_is_the_released_size():
    large = SIZES["large"]
    assert large.channels == (96, 192, 288, 576)
    assert large.depths == (3, 3, 12, 2)
    assert large.num_heads == (1, 2, 4, 8)
    assert large.mlp_ratios == (8, 8, 4, 4)
    assert large.rgb_vit == "vit_giant_patch14_reg4_dinov2"
    assert large.structure_vit == "vit_base_patch14_reg4_dinov2"


def test_drop_path_rises_linearly_over_all_blocks_and_inputs_are_normalised():
    with torch.device("meta"):
        config = ModelConfig(size="small", rgb_vit=NONE, structure_vit=NONE, drop_path=0.3)
        net = build_network(config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),))
    rates = [block.add.drop_path for stage in net.encoder.enhance for block in stage.blocks]
    assert rates == pytest.approx([0.3 * block / 9 for block in range(10)])
    encoder = network(vit=NONE).encoder
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.stack([mean, mean + std]).view(2, 3, 1, 1)
    normalized = encoder.rgb.normalize(pixels)
    torch.testing.assert_close(normalized[:, :, 0, 0], torch.tensor([[0.0] * 3, [1.0] * 3]))
    structure = encoder.structure.normalize(torch.tensor([0.0, 0.5, 1.0]).expand(1, 4, 1, 3))
    assert structure[0, 0, 0].tolist() == [-2, 0, 2]


@pytest.mark.parametrize(("layers", "join"), [(2, "projection"), (1, "depth_to_space")])
def test_layers_and_join_of_the_recipe_reach_both_branches(layers, join):
    net = network(vit=VitConfig(name="test_vit", weights="random", num_layers=layers, join=join))
    for embedding in (net.encoder.rgb, net.encoder.structure):
        assert embedding.vit.channels == 64 * layers
        assert type(embedding.joins[0]) is JOINS[join]
    logits = net(torch.rand(2, 3, 40, 64), torch.rand(2, 4, 40, 64))
    logits.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.encoder.rgb.joins.parameters())


def test_frozen_vits_in_half_precision_give_the_same_logits_under_autocast():
    torch.manual_seed(0)
    inputs = torch.rand(2, 3, 48, 64), torch.rand(2, 4, 48, 64)
    plain, half = network(), network(frozen_dtype=torch.bfloat16)
    half.load_state_dict(plain.state_dict(), strict=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(half(*inputs), plain(*inputs))


def test_identities_name_both_branches():
    assert frozen_identities(network()).keys() == {"rgb_vit", "structure_vit"}
    assert frozen_identities(network(vit=NONE)) == {}


@pytest.mark.parametrize("axis", [2, 3])
def test_a_flipped_input_gives_the_flipped_output(axis):
    """With its kernels flipped too: a 3x3 kernel itself has a left and a right.

    The sizes are 1 above a multiple of 32, where stride-2 grids have a middle.
    """
    net = network(vit=NONE).eval()
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
    net = network(vit=NONE).eval()
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
    net = network(vit=NONE).train(training)
    image, structure = (1e3 * x for x in inputs(64, 96))
    with torch.autocast("cpu", dtype=dtype):
        logits = net(image, structure)
    assert torch.isfinite(logits).all()
    logits.float().square().mean().backward()
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_every_convolution_sees_and_gives_channels_last():
    net = network(vit=NONE)
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


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(recompute):
    torch.compiler.reset()
    net = network(vit=NONE, recompute=recompute)
    image, structure = inputs(64, 64)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    logits = compiled(image, structure)
    logits.square().mean().backward()
    ours = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    expected = network(vit=NONE, recompute=recompute)(image, structure)
    expected.square().mean().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(gradient).all() for gradient in ours.values())


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
    net = network(vit=NONE, **settings)
    logits = net(*inputs(64, 64))
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weight).sum().backward()
    groups = build_optimizer(net, OptimConfig(lr=1.0, weight_decay=0.1)).param_groups
    optimised = {id(p) for group in groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        assert id(parameter) in optimised, name
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_fault_5_each_stage_runs_once_at_its_own_scale():
    net, seen = network(), []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append((type(module), tuple(args[0].shape[1:])))

    for module in net.modules():
        if isinstance(module, (FusionEnhancement, FeatureRecalibration)):
            module.register_forward_pre_hook(note)
    net(torch.rand(1, 3, 128, 64), torch.rand(1, 4, 128, 64))
    sizes = [(16, 32, 16), (32, 16, 8), (48, 8, 4), (64, 4, 2)]
    both = (FusionEnhancement, FeatureRecalibration)
    assert seen == [(block, size) for size in sizes for block in both]


def test_fault_14_every_structure_channel_reaches_the_logits():
    net = network(vit=NONE)
    structure = torch.rand(1, 4, 64, 64, requires_grad=True)
    net(torch.rand(1, 3, 64, 64), structure).square().sum().backward()
    assert (structure.grad.abs().sum((0, 2, 3)) > 0).all()


def test_fault_21_frozen_parameters_are_in_no_group_no_checkpoint_and_take_no_gradient():
    net = network()
    frozen = {
        id(p) for vit in (net.encoder.rgb.vit, net.encoder.structure.vit) for p in vit.parameters()
    }
    groups = build_optimizer(net, OptimConfig(lr=1.0, weight_decay=0.1)).param_groups
    assert frozen and not frozen & {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in net.parameters()} - frozen == {
        id(p) for group in groups for p in group["params"]
    }
    saved = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    assert not frozen & saved
    net.train()(torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64)).sum().backward()
    assert all(p.grad is None for p in net.parameters() if id(p) in frozen)


def test_fault_22_the_head_sees_both_streams_of_every_stage():
    net = network(vit=NONE)
    pyramid = net.encoder(torch.rand(1, 3, 64, 64), torch.rand(1, 4, 64, 64))
    pyramid = [features.detach().requires_grad_() for features in pyramid]
    net.head(pyramid).square().sum().backward()
    for features, width in zip(pyramid, (16, 32, 48, 64), strict=True):
        assert features.shape[1] == 2 * width
        assert (features.grad.abs().sum((0, 2, 3)) > 0).float().mean() > 0.9
