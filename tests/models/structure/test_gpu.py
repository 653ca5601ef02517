"""What only a CUDA device can show of the generators."""

import pytest
import torch

from configs.schema import DepthAnythingConfig, SamConfig
from models.structure.depth_anything import DepthAnything, load_depth_anything
from models.structure.sam import Sam
from tests.models.structure.small_sam import LOOSE, find_masks, picture, random_sam

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


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
