"""Depth Anything: the network against that of transformers, and maps of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.schema import DepthAnythingConfig
from models.structure.depth_anything import (
    DepthAnything,
    DepthAnythingNetwork,
    load_depth_anything,
    network_size,
    resize_positions,
)
from models.weights import official_depth_anything
from tests.models.structure.depth_reference import (
    CPU,
    LAYERS,
    cubic,
    literal_positions,
    load,
    official_layout,
    official_weights,
    other_network,
    pictures,
    scene,
)
from utils.errors import DataError

RANDOM = DepthAnythingConfig(checkpoint="random", input_size_px=70)  # small pictures, for time


@pytest.fixture(scope="module")
def small() -> DepthAnythingNetwork:
    return load_depth_anything(RANDOM, CPU)[0]


@pytest.fixture
def depth(small) -> DepthAnything:
    return DepthAnything(RANDOM, small)


@pytest.mark.parametrize(
    ("model_type", "size"),
    [
        ("v2_small", (126, 350)),
        ("v1_small", (252, 154)),
        pytest.param("v2_base", (42, 98), marks=pytest.mark.slow),
        pytest.param("v2_large", (42, 56), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_network_gives_the_depth_of_transformers(model_type, size, tmp_path, monkeypatch):
    weights = official_weights(model_type.split("_")[1])
    x = pictures(1, 3, *size)
    theirs = other_network(model_type, weights)(x).predicted_depth
    ours = load(model_type, weights, tmp_path / "mine.pth", monkeypatch)(x)
    assert ours.shape == theirs.shape == (1, *size)
    spread = theirs.std()
    assert spread > 0.1 and (theirs > 0).float().mean() > 0.2  # the last ReLU leaves something
    assert (ours - theirs).abs().max() < 1e-4 * min(1, spread)


@pytest.mark.parametrize("grid", [(37, 37), (20, 49), (1, 3)])
def test_positions_follow_the_official_rule(grid):
    positions = pictures(1, 1 + 37 * 37, 5)
    expected = literal_positions(positions, grid)
    ours = resize_positions(positions, grid)
    assert ours.shape == (1, 1 + grid[0] * grid[1], 5)
    assert (ours - expected).abs().max() < 1e-4


def test_random_weights_are_the_same_each_time_and_give_maps_of_the_image(small, depth):
    before = torch.random.get_rng_state()
    again, digest = load_depth_anything(RANDOM, CPU)
    assert torch.equal(torch.random.get_rng_state(), before) and digest == "random"
    theirs = again.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in small.state_dict().items())
    one, other = depth.generate_batch([scene(70, 70), scene(70, 70, 1)])
    assert one.std() > 1e-3 and (one > 0).mean() > 0.9 and np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    ("image", "input_size_px", "expected"),
    [
        ((512, 512), 518, (518, 518)),  # 37 patches
        ((600, 800), 518, (518, 686)),  # 800 * 518 / 600 = 690.7, 49.3 patches
        ((1024, 1000), 518, (532, 518)),  # 1024 * 0.518 = 530.4, 37.9 patches
        ((50, 20), 518, (1288, 518)),  # 1295 is 92.5 patches, and a half goes to the even
        ((100, 100), 510, (518, 518)),  # 36.4 patches would be 504, below 510
        ((100, 150), 14, (14, 28)),  # 21 is 1.5 patches, and a half goes to the even
    ],
)
def test_network_size_is_the_official_one(image, input_size_px, expected):
    assert network_size(*image, input_size_px) == expected


def test_images_are_resized_by_opencvs_cubic_and_normalised(depth):
    image = scene(40, 60)
    image[10:, 20:] = 255
    rows, columns = cubic(40, 70, 70), cubic(60, 112, 112)
    resized = torch.einsum("ia,jb,abc->cij", rows, columns, torch.tensor(image).double() / 255)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    expected = (resized - mean) / std
    assert expected.max() > 1.001 * ((1 - mean) / std).max()  # overshoots are kept
    found = depth._preprocess(image, (70, 112))
    assert found.shape == (1, 3, 70, 112)
    assert (found[0] - expected).abs().max() < 1e-5


def test_maps_are_brought_back_corner_to_corner(depth, monkeypatch):
    image = scene(64, 96)
    ramp = torch.arange(70.0)[:, None] + 1000 * torch.arange(112.0)
    monkeypatch.setattr(depth, "_network", lambda x: ramp.expand(len(x), -1, -1))
    found = depth.generate(image)
    y, x = np.linspace(0, 69, 64)[:, None], np.linspace(0, 111, 96)
    assert found.dtype == np.float32 and found.shape == (64, 96)
    assert np.abs(found - (y + 1000 * x)).max() < 0.05


def test_batches_of_one_input_size_that_fit_the_memory_give_the_maps_of_single_images(
    depth, monkeypatch
):
    sizes = [(64, 64), (60, 90), (80, 80), (64, 64), (90, 60), (40, 60)]
    images = [scene(*size, seed) for seed, size in enumerate(sizes)]
    singles = [depth.generate(image) for image in images]
    tried, network, capacity = [], depth._network, 2

    def small_memory(x: Tensor) -> Tensor:
        tried.append((len(x), *x.shape[2:]))
        if len(x) > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(x)

    monkeypatch.setattr(depth, "_network", small_memory)
    images[1] = images[1][::-1].copy()[::-1]  # an image may be a view, and read only
    images[1].flags.writeable = False
    assert depth.images_per_batch == 1  # on the CPU
    depth.images_per_batch = 4
    together = depth.generate_batch(images)
    assert tried == [(3, 70, 70), (2, 70, 70), (1, 70, 70), (2, 70, 112), (1, 112, 70)]
    assert depth.images_per_batch == 2
    for image, one, other in zip(images, singles, together, strict=True):
        assert one.shape == other.shape == image.shape[:2]
        assert one.dtype == other.dtype == np.float32 and one.min() >= 0
        assert np.abs(one - other).max() < 1e-5
    capacity = 0
    with pytest.raises(
        DataError, match=r"^Depth Anything does not fit .* one image at a time; low"
    ):
        depth.generate_batch(images)


def test_a_half_network_gives_nearly_the_same_float32_map(small):
    image = scene(70, 98)
    network, _ = load_depth_anything(RANDOM, CPU, torch.bfloat16)
    assert network.pretrained.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert network.depth_head.scratch["output_conv1"].weight.dtype == torch.float32
    single = DepthAnything(RANDOM, small).generate(image)
    half = DepthAnything(RANDOM, network, dtype=torch.bfloat16).generate(image)
    stored_single = DepthAnything(RANDOM, small, dtype=torch.bfloat16).generate(image)
    assert half.dtype == np.float32
    assert np.array_equal(half, stored_single)  # autocast would have cast the weights anyway
    assert 0 < np.abs(half - single).max() < 0.2 * np.ptp(single)
    assert len(np.unique(half)) > 0.9 * half.size  # no steps of bfloat16


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_network_has_exactly_the_official_parameters_and_layers(size, tmp_path, monkeypatch):
    layout = official_layout(size)
    weights = {name: torch.zeros(1).expand(shape) for name, shape in layout.items()}
    path = tmp_path / "mine.pth"
    network = load(f"v2_{size}", weights, path, monkeypatch)
    loaded = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert loaded == {k: v for k, v in layout.items() if k != "pretrained.mask_token"}
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    assert network.layers == LAYERS[f"v2_{size}"]
    assert load(f"v1_{size}", weights, path, monkeypatch).layers == LAYERS[f"v1_{size}"]


def test_weights_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    weights = {name: torch.zeros(1).expand(s) for name, s in official_layout("small").items()}
    weights["a"] = weights.pop("pretrained.cls_token")
    sentence = (
        r"mine\.pth does not hold weights of Depth Anything v2_small: 1 missing \(first: "
        r"pretrained\.cls_token\), 1 unexpected \(first: a\); get depth_anything_v2_vits\.pth from "
    )
    with pytest.raises(DataError, match=sentence):
        load("v2_small", weights, tmp_path / "mine.pth", monkeypatch)
    # Metric depth has the same layout: only the names of the files tell them apart.
    path = tmp_path / "depth_anything_v2_metric_vkitti_vitl.pth"
    with pytest.raises(DataError, match="named like weights of metric depth"):
        load("v2_large", weights, path, monkeypatch)


def test_a_file_gives_its_weights_as_single_precision(tmp_path):
    weights = {name: tensor.half() for name, tensor in official_weights("small").items()}
    path = tmp_path / "mine.pth"
    torch.save(weights, path)
    network, digest = load_depth_anything(DepthAnythingConfig(checkpoint=str(path)), CPU)
    assert len(digest) == 64 and not network.training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, weights[name].float()), name
    assert not any(parameter.requires_grad for parameter in network.parameters())


WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / official_depth_anything("v2_small").file


@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"weights/{WEIGHTS.name} is not at hand")
def test_the_official_small_network_puts_the_floor_in_front():
    """Lines that run to a vanishing point: the lower edge is nearer than the middle."""
    y, x = np.mgrid[:240, :320]
    below = np.clip(y - 100, 1, None)
    floor = ((4000 // below + 12 * (x - 160) // below) % 2) * 120 + 60
    image = np.where(y > 100, floor, 210)[..., None].repeat(3, -1).astype(np.uint8)
    config = DepthAnythingConfig(checkpoint=str(WEIGHTS))
    found = DepthAnything(config, *load_depth_anything(config, CPU)).generate(image)
    assert found[-10:].mean() > found[120:130].mean() > 0
