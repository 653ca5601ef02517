"""Every setting of the recipe reaches its generator, and nothing is imported or fetched unasked."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from configs.schema import DepthAnythingConfig, SamConfig, StructureConfig, SuperpixelsConfig
from models.structure import build, depth_anything, sam
from models.structure.build import build_generator, fetch_generator_weights
from tests.models.structure.test_superpixels import natural_image
from utils.errors import ConfigError, MissingDataError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROOT = Path(__file__).resolve().parents[3]
WINDOWS = {"window_px": 200, "window_overlap_px": 50}
NOT_OF_THE_NETWORK = {"store", "encodings", "join_tiles", *WINDOWS}


class Noted:
    """Stands for a generator's class, and keeps what it is built with."""

    kind, weights_sha256 = "values", "digest"

    def __init__(self, **settings):
        self.settings = settings
        self.images_per_batch = settings["images_per_batch"]


def test_the_builder_knows_its_generators():
    with pytest.raises(ConfigError, match="no structure generator 'depth'; known are superpixels"):
        build_generator("depth", SamConfig(), CPU)
    for name, config in (("sam", SamConfig), ("depth_anything", DepthAnythingConfig)):
        with pytest.raises(
            MissingDataError, match=r"are not at none\.pth; get .* and put it there"
        ):
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


SAM = dict(
    points_per_side=3,
    points_per_batch=5,
    pred_iou_thresh=0.11,
    stability_score_thresh=0.12,
    stability_score_offset=0.13,
    box_nms_thresh=0.14,
    crop_n_layers=1,
    crop_nms_thresh=0.15,
    crop_overlap_ratio=0.16,
    crop_n_points_downscale_factor=2,
    images_per_batch=7,
)
DEPTH = {"input_size_px": 280, "images_per_batch": 9}


@pytest.mark.parametrize(
    ("name", "settings", "device", "precision", "dtype"),
    [
        ("sam", SAM, CPU, "auto", torch.float32),
        ("sam", SAM, CPU, "bf16", torch.bfloat16),
        ("sam", SAM, CUDA, "auto", torch.bfloat16),
        ("depth_anything", DEPTH, CPU, "auto", torch.float32),
        ("depth_anything", DEPTH, CUDA, "fp32", torch.float32),
    ],
)
def test_build_passes_every_setting_on(monkeypatch, name, settings, device, precision, dtype):
    loaded = []
    module, config_of = {
        "sam": (sam, SamConfig),
        "depth_anything": (depth_anything, DepthAnythingConfig),
    }[name]
    monkeypatch.setattr(module, "Sam" if name == "sam" else "DepthAnything", Noted)
    monkeypatch.setattr(
        module, f"load_{name}", lambda *given: loaded.extend(given) or ("network", "hash")
    )
    besides = {"model_type", "checkpoint", "precision", *NOT_OF_THE_NETWORK}
    assert settings.keys() | besides == {*(f.name for f in fields(config_of)), "encodings"}
    model_type = "vit_b" if name == "sam" else "v1_base"
    named = {"model_type": model_type, "checkpoint": "mine.pth", "precision": precision}
    generator = build_generator(name, config_of(**named, **WINDOWS, **settings), device)
    assert loaded == [model_type, "mine.pth", device, *([dtype] if name != "sam" else [])]
    expected = {"network": "network", "weights_sha256": "hash", "dtype": dtype, **settings}
    assert generator._generator.settings == expected
    assert (generator._window_px, generator._overlap_px) == (200, 50)


def test_weights_of_the_generators_in_use_are_fetched_if_no_file_is_named(monkeypatch):
    fetched = []
    monkeypatch.setattr(
        build, "fetch_weights", lambda official: fetched.append((official.model, official.file))
    )
    everything = ("superpixels", "sam", "dsm", "depth_anything")
    fetch_generator_weights(StructureConfig(modalities=everything))
    assert fetched == [
        ("SAM vit_h", "sam_vit_h_4b8939.pth"),
        ("Depth Anything v2_small", "depth_anything_v2_vits.pth"),
    ]
    fetched.clear()
    fetch_generator_weights(
        StructureConfig(
            modalities=everything,
            absent=("depth_anything",),
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
