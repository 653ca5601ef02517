"""Every setting of the recipe reaches its generator, and nothing is imported or fetched unasked."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.schema import (
    DepthAnythingConfig,
    FeaturesConfig,
    SamConfig,
    StructureConfig,
    SuperpixelsConfig,
)
from models.structure import build, depth_anything, sam
from models.structure.build import build_generator, fetch_generator_weights
from tests.models.structure.test_superpixels import natural_image
from utils.errors import MissingDataError

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("name", "config"),
    [("sam", SamConfig), ("depth_anything", DepthAnythingConfig), ("features", FeaturesConfig)],
)
def test_a_missing_file_of_weights_is_named(name, config):
    with pytest.raises(MissingDataError, match=r"are not at none\.pth; get .* and put it there"):
        build_generator(name, config(checkpoint="none.pth"), CPU)


def test_build_passes_every_superpixel_setting_on():
    config = SuperpixelsConfig(
        segment_size_px=9, compactness=4.0, num_iterations=2, min_area_share=0.5
    )
    image = natural_image(60, 50)
    expected = build_generator("superpixels", config, CPU).generate(image)
    for change in ("segment_size_px", "compactness", "num_iterations", "min_area_share"):
        other = {**vars(config), change: getattr(SuperpixelsConfig(), change)}
        changed = build_generator("superpixels", SuperpixelsConfig(**other), CPU)
        assert (changed.generate(image) != expected).any(), change


@pytest.mark.parametrize(
    ("name", "device", "precision", "dtype"),
    [
        ("sam", "cpu", "auto", torch.float32),
        ("sam", "cpu", "bf16", torch.bfloat16),
        ("sam", "cuda", "auto", torch.bfloat16),
        ("depth_anything", "cpu", "auto", torch.float32),
        ("depth_anything", "cuda", "fp32", torch.float32),
    ],
)
def test_networks_get_their_settings_precision_and_windows(
    monkeypatch, name, device, precision, dtype
):
    loaded, built = [], []
    module, of_config, generator = {
        "sam": (sam, SamConfig, "Sam"),
        "depth_anything": (depth_anything, DepthAnythingConfig, "DepthAnything"),
    }[name]

    def load(*given):
        loaded.extend(given)
        return "network", "digest"

    def build_it(*given):
        built.extend(given)
        return SimpleNamespace(kind="values", weights_sha256=given[2], images_per_batch=9)

    monkeypatch.setattr(module, f"load_{name}", load)
    monkeypatch.setattr(module, generator, build_it)
    config = of_config(precision=precision, window_px=200, window_overlap_px=50)
    windowed = build_generator(name, config, torch.device(device))
    assert loaded == [config, torch.device(device), *([dtype] if name != "sam" else [])]
    assert built == [config, "network", "digest", dtype]
    assert (windowed._window_px, windowed._overlap_px) == (200, 50)
    assert (windowed.weights_sha256, windowed.images_per_batch) == ("digest", 9)


def test_weights_of_the_generators_in_use_are_fetched_if_no_file_is_named(monkeypatch):
    fetched = []
    monkeypatch.setattr(
        build, "fetch_weights", lambda official: fetched.append((official.model, official.file))
    )
    everything = ("superpixels", "sam", "dsm", "depth_anything", "features")
    fetch_generator_weights(StructureConfig(modalities=everything))
    assert fetched == [
        ("SAM vit_h", "sam_vit_h_4b8939.pth"),
        ("Depth Anything v2_small", "depth_anything_v2_vits.pth"),
        ("vit_small_patch14_reg4_dinov2", "dinov2_vits14_reg4_pretrain.pth"),
    ]
    fetched.clear()
    fetch_generator_weights(
        StructureConfig(
            modalities=everything,
            absent=("depth_anything",),
            features=FeaturesConfig(checkpoint="mine.safetensors"),
            sam=SamConfig(checkpoint="mine.pth"),
        )
    )
    assert fetched == []


def test_superpixels_do_not_wait_for_the_packages_of_others():
    program = (
        "import sys, torch, generate\n"
        "from configs.schema import SuperpixelsConfig\n"
        "from models.structure.build import build_generator\n"
        "build_generator('superpixels', SuperpixelsConfig(), torch.device('cpu'))\n"
        "print([name for name in ('timm', 'segment_anything') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
