"""The whole network, as built from a recipe."""

import pytest
import torch

from configs.schema import ModelConfig, OptimConfig, VitConfig
from models.build import SIZES, build_network, frozen_identities
from models.encoder import JOINS
from utils.errors import MissingDataError
from utils.training.optim import build_optimizer

RANDOM, NONE = VitConfig(name="test_vit", weights="random"), VitConfig(name="none")


def network(size="tiny", vit=RANDOM, channels=4, pictures=((0, 1, 2),), frozen_dtype=torch.float32):
    torch.manual_seed(0)
    config = ModelConfig(size=size, rgb_vit=vit, structure_vit=vit, drop_path=0.0, head_dropout=0.0)
    return build_network(
        config,
        num_classes=5,
        structure_channels=channels,
        pictures=pictures,
        frozen_dtype=frozen_dtype,
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


def test_frozen_weights_stay_and_others_move():
    net = network()
    frozen = {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}
    moving = {n: p.clone() for n, p in net.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(net, OptimConfig(lr=0.1, weight_decay=0.1))
    net(torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64)).square().mean().backward()
    optimizer.step()
    now = dict(net.named_parameters())
    assert frozen and all(torch.equal(now[n], p) for n, p in frozen.items())
    assert all(not torch.equal(now[n], p) for n, p in moving.items())
    assert not any("vit.vit" in key for key in net.state_dict())


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


@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds_without_memory(size):
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
