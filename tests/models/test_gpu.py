"""What only a CUDA device can show."""

import pytest
import torch

from configs.schema import DepthAnythingConfig, ModelConfig, OptimConfig, SamConfig, VitConfig
from models.build import build_network
from models.structure.depth_anything import DepthAnything, load_depth_anything
from models.structure.sam import Sam
from tests.models.structure.small_sam import LOOSE, find_masks, picture, random_sam
from utils.training.optim import build_optimizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def build(size: str, vit: str) -> torch.nn.Module:
    frozen = VitConfig(name=vit, weights="random")
    config = ModelConfig(size=size, rgb_vit=frozen, structure_vit=frozen)
    return build_network(config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_with_a_smaller_vit_trains_within_24_gib(dtype):
    network = build("large", "vit_small_patch14_reg4_dinov2").cuda()
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    optimizer = build_optimizer(network, OptimConfig(lr=1e-4, weight_decay=0.01))
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16, init_scale=1024)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        with torch.autocast("cuda", dtype=dtype):
            logits = network(*(torch.rand(4, c, 512, 512, device="cuda") for c in (3, 4)))
        loss = logits.float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.isfinite(loss)
    assert torch.cuda.max_memory_allocated() < 24 * 2**30
    now = dict(network.named_parameters())
    assert frozen and all(torch.equal(now[n], p) for n, p in frozen.items())


def test_gpu_and_cpu_give_the_same_logits():
    network = build("tiny", "test_vit").eval()
    inputs = [torch.rand(1, c, 65, 96) for c in (3, 4)]
    with torch.no_grad():
        expected = network(*inputs)
        ours = network.cuda()(*(x.cuda() for x in inputs)).cpu()
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-3)  # TF32 convolutions


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_sam_finds_the_same_masks_on_gpu_and_cpu(crop_n_layers):
    settings = {**LOOSE, "crop_n_layers": crop_n_layers}
    images = [picture(48, 64), picture(64, 64), picture(90, 40)]
    on_cpu = Sam(SamConfig(**settings), random_sam())
    on_gpu = Sam(SamConfig(images_per_batch=2, **settings), random_sam().cuda())
    for image, ids in zip(images, on_gpu.generate_batch(images), strict=True):
        expected = on_cpu.generate(image)
        assert (ids != expected).mean() < 0.01 and expected.max() > 3


def test_points_per_batch_bounds_the_memory_of_sam():
    network = random_sam().cuda()

    def peak(points_per_batch):
        settings = {**LOOSE, "points_per_side": 32, "points_per_batch": points_per_batch}
        torch.cuda.reset_peak_memory_stats()
        find_masks(Sam(SamConfig(**settings), network), picture())
        return torch.cuda.max_memory_allocated()

    assert peak(8) < peak(1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_depth_is_the_same_on_gpu_and_cpu(dtype):
    config = DepthAnythingConfig(checkpoint="random", input_size_px=70, images_per_batch=2)
    images = [picture(48, 64), picture(48, 64), picture(64, 64)]
    on_cpu = DepthAnything(config, *load_depth_anything(config, torch.device("cpu")))
    loaded = load_depth_anything(config, torch.device("cuda"), dtype)
    on_gpu = DepthAnything(config, *loaded, dtype)
    for image, depth in zip(images, on_gpu.generate_batch(images), strict=True):
        expected = on_cpu.generate(image)
        tolerance = (1e-2 if dtype == torch.float32 else 0.1) * float(expected.max())
        assert abs(depth - expected).max() < tolerance  # TF32 convolutions
