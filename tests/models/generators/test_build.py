"""Every setting of the recipe reaches its generator."""

import pytest
import torch

from configs.schema import SamConfig, SuperpixelsConfig
from models.generators.build import build_generator
from tests.models.generators.test_sam import small_file
from tests.models.generators.test_superpixels import natural_image
from utils.errors import ConfigError, MissingDataError

CPU = torch.device("cpu")


def test_the_builder_knows_its_generators():
    with pytest.raises(ConfigError, match="no structure generator 'depth'; known are superpixels"):
        build_generator("depth", SamConfig(), CPU)
    with pytest.raises(MissingDataError, match=r"no file .*none\.pth"):
        build_generator("sam", SamConfig(checkpoint="none.pth"), CPU)


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


def test_build_passes_every_sam_setting_on(tmp_path):
    path = tmp_path / "mine.pth"
    small_file(path)
    settings = dict(
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
    )
    config = SamConfig(model_type="vit_b", checkpoint=str(path), **settings)
    inner = vars(build_generator("sam", config, CPU)._generator)
    assert [len(grid) for grid in inner["point_grids"]] == [9, 1]  # 3 x 3; int(3 / 2) squared
    for name in settings.keys() - {"points_per_side"}:
        assert inner[name] == settings[name], name
