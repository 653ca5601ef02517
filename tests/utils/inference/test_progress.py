"""What decides a result: settings, and the files of an image. Others repeat nothing."""

from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil

from tests.utils.rasters.raster_files import picture, write_tiff
from utils.config import config_from_dict
from utils.inference.progress import file_state, settings_digest
from utils.inference.results import OutputSettings
from utils.rasters.rendering import Rendering


def digest(checkpoint, *overrides, maps="generated", min_area=0, **rendering):
    config = config_from_dict(checkpoint.identity.recipe, "recipe", [*overrides])
    output = OutputSettings(
        folder=Path("out"), kinds=("polygons",), classes=(), palette=(), min_area=min_area
    )
    return settings_digest(checkpoint, config, Rendering(**rendering), output, maps)


def test_settings_that_do_not_decide_a_result_are_not_in_the_digest(checkpoint):
    overrides = ["eval.every_epochs=7", "eval.patience=3", "eval.metric=mf1", "eval.batch_size=1"]
    overrides += ["eval.labels=eroded", "eval.unit=tile", "eval.mean_without=[water]"]
    overrides += ["model.head_dropout=0.3", "structure.dropout=0.5", "optim.lr=1"]
    overrides += ["structure.sam.points_per_side=8"]  # not one of the modalities
    assert digest(checkpoint, *overrides) == digest(checkpoint)


def test_settings_that_decide_a_result_are_in_the_digest(checkpoint):
    overrides = [
        "eval.window_px=128",
        "eval.overlap_px=20",
        "eval.scales=[1.0,1.5]",
        "eval.turns=2",
        "run.precision=bf16",
        "structure.control=off",
        "structure.superpixels.segment_size_px=20",
        "structure.superpixels.encodings=[boundary]",
        "model.fe_branches=[global_context]",
        "model.structure_vit.layers=last",
        "model.structure_vit.input_scale=2",
    ]
    found = [digest(checkpoint), *(digest(checkpoint, override) for override in overrides)]
    found += [digest(checkpoint, maps="stored"), digest(checkpoint, min_area=2.0)]
    found += [digest(checkpoint, bands=(3, 2, 1))]
    found += [digest(checkpoint, stretch=((0.0, 9.0),)), digest(checkpoint, alpha_is_data=True)]
    assert len(set(found)) == len(found)


def test_a_file_that_is_read_with_an_image_is_in_its_state(tmp_path):
    """A mask, a place, or another source of a mosaic must not leave old results as done."""
    for name in ("a", "b"):
        write_tiff(tmp_path / f"{name}.tif", picture(8, 9))
    rasterio.shutil.copy(tmp_path / "b.tif", tmp_path / "b.vrt", driver="VRT")
    states = [file_state(tmp_path / "a.tif")]

    def add(path):
        states.append(file_state(path))
        assert states[-1] not in states[:-1]

    (tmp_path / "a.tfw").write_text("0.1\n0\n0\n-0.1\n4e5\n57e5\n")
    add(tmp_path / "a.tif")
    (tmp_path / "a.prj").write_text(rasterio.CRS.from_epsg(32633).to_wkt())
    add(tmp_path / "a.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.write_mask(np.zeros((8, 9), bool))
    add(tmp_path / "a.tif")
    (tmp_path / "notes.prj").touch()  # of no image
    assert file_state(tmp_path / "a.tif") == states[-1]
    add(tmp_path / "b.vrt")
    write_tiff(tmp_path / "b.tif", picture(8, 9)[::-1])
    add(tmp_path / "b.vrt")
