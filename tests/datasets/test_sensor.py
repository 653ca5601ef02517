"""A real sensor as a modality: import, encoding, geometry, dropout, absence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.schema import Config, StructureConfig
from datasets.build import build_train_loader, check_structure
from datasets.encodings import StructureEncoder, value
from datasets.modalities import map_path, read_manifest, read_map, store_folder
from datasets.samplers import SampleKey
from datasets.samples import prepare_inputs
from datasets.sensor import import_sensor, read_raster, to_levels
from datasets.tiles import TileSet, open_tile_set
from datasets.transforms import Geometry
from eval import evaluate_split
from models.generators.build import check_generated
from tests.conftest import make_config, single_process
from train import build_run, train
from utils.checkpoint import load_checkpoint
from utils.config import config_from_dict
from utils.errors import ConfigError, DataError, MissingDataError

BOTH = "structure.modalities=[superpixels,dsm]"


@pytest.fixture(scope="module")
def with_sensor(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes with a sensor that sees the brightness, NaN in one corner."""
    rasters = tmp_path_factory.mktemp("rasters")
    tile_set = open_tile_set(data_root)
    for tile_id in tile_set.tiles:
        heights = tile_set.read_image(tile_id).mean(-1).astype(np.float32) / 10 - 3
        heights[:5, :7] = np.nan
        Image.fromarray(heights).save(rasters / f"{tile_id}.tif")
    import_sensor(tile_set, "dsm", rasters)
    return data_root


def config_of(root: Path, output: Path, *overrides: str) -> Config:
    return make_config(root, output, BOTH, *overrides)


def test_levels_by_hand():
    values = np.array([[-3.0, 0.0, 3.0, np.nan]])
    assert to_levels(values, -3.0, 3.0).tolist() == [[1, 32768, 65535, 0]]
    encoded = value(torch.zeros(1, 3, 1, 4), torch.tensor([[[1, 32768, 65535, 0]]]))
    assert encoded.tolist() == [[[[0.0, 0.5, 1.0, 0.5]]]]


def test_import_keeps_values_and_no_data(with_sensor, tmp_path):
    tile_set = open_tile_set(with_sensor)
    folder = store_folder(with_sensor, "dsm")
    recipe, sources = read_manifest(folder)
    assert recipe.generator == "sensor" and set(sources) == set(tile_set.tiles)
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    tile_id = next(iter(tile_set.tiles))
    levels = read_map(map_path(folder, tile_id))
    expected = tile_set.read_image(tile_id).mean(-1) / 10 - 3
    assert (levels[:5, :7] == 0).all() and (levels[5:] > 0).all()
    ours = low + (levels - 1) / 65534 * (high - low)
    np.testing.assert_allclose(ours[5:], expected[5:], atol=(high - low) / 65000)


@pytest.mark.parametrize("mode", ["L", "I;16", "F"])
def test_rasters_of_8_16_and_32_bit_are_read(mode, tmp_path):
    kind = {"L": np.uint8, "I;16": np.uint16, "F": np.float32}[mode]
    array = np.array([[1, 2], [9, 4]], kind)
    Image.fromarray(array).save(tmp_path / "a.tif")
    raster = read_raster(tmp_path / "a.tif", no_data=9)
    np.testing.assert_array_equal(raster, [[1, 2], [np.nan, 4]])


def test_import_errors_are_one_sentence(data_root: Path, tmp_path: Path):
    tile_set = open_tile_set(data_root)
    with pytest.raises(MissingDataError, match=r"the image '.*' has no raster .*\.png}; add it"):
        import_sensor(tile_set, "other", tmp_path)
    for tile_id in tile_set.tiles:
        Image.fromarray(np.zeros((96, 95), np.uint8)).save(tmp_path / f"{tile_id}.png")
    with pytest.raises(DataError, match=r"is 96 x 95 and its image 96 x 96 \(height x width\)"):
        import_sensor(tile_set, "other", tmp_path)
    for tile_id in tile_set.tiles:
        Image.fromarray(np.zeros((96, 96), np.uint8)).save(tmp_path / f"{tile_id}.png")
    with pytest.raises(DataError, match="holds a pixel with data; check --no-data"):
        import_sensor(tile_set, "other", tmp_path, no_data=0)
    assert not store_folder(data_root, "other").exists()
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="must have one band of numbers, not 'RGB'"):
        read_raster(tmp_path / "rgb.png", None)


def test_a_sensor_that_is_not_there_says_how_to_import_it(data_root: Path, tmp_path: Path):
    config = make_config(data_root, tmp_path, "structure.modalities=[superpixels,lidar]")
    with pytest.raises(MissingDataError, match="names 'lidar', which is no generator"):
        check_structure(open_tile_set(data_root), config.structure, ["val"])


def test_another_range_than_that_of_the_checkpoint_is_refused(with_sensor, tmp_path):
    tile_set: TileSet = open_tile_set(with_sensor)
    structure = config_of(with_sensor, tmp_path).structure
    assert set(check_structure(tile_set, structure, ["val"])) == {"superpixels", "dsm"}
    other = {"dsm": {"settings": {"minimum": 0.0, "maximum": 1.0}}}
    with pytest.raises(DataError, match=r"dsm was made with other settings .* settings.minimum: 0"):
        check_structure(tile_set, structure, ["val"], other)


def test_geometry_moves_a_sensor_like_the_image():
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64))
    members = {
        "image": np.repeat(ramp[..., None], 3, -1).astype(np.uint8),
        "target": ramp.astype(np.uint8),
        "dsm": (1 + 100 * ramp).astype(np.int32),
    }
    geometry = Geometry(crop_size_px=32, scale_range=(0.7, 1.6), dihedral=True, sensors=("dsm",))
    for seed in range(30):
        out = geometry(members, np.random.default_rng(seed))
        valid = out["dsm"] > 0
        assert valid.mean() > 0.4
        difference = (out["dsm"] - 1) / 100 - out["image"][..., 0]
        assert np.abs(difference[valid]).max() <= 1  # the image is rounded to whole numbers


def test_no_data_does_not_bleed_when_resized():
    levels = np.full((40, 40), 5000, np.int32)
    levels[:, :20] = 0
    members = {"image": np.zeros((40, 40, 3), np.uint8), "dsm": levels}
    geometry = Geometry(crop_size_px=30, scale_range=(0.75, 0.75), dihedral=False, sensors=("dsm",))
    out = geometry(members, np.random.default_rng(0))["dsm"]
    assert set(np.unique(out)) == {0, 5000}
    assert (out[:, :14] == 0).all() and (out[:, 16:] == 5000).all()


def batch_of(config: Config, root: Path, seeds: range):
    loader, _ = build_train_loader(config, open_tile_set(root), single_process())
    return [loader.dataset[SampleKey(index=0, seed=seed)] for seed in seeds]


def test_dropout_has_its_rate_is_repeatable_and_never_takes_all(with_sensor, tmp_path):
    config = config_of(with_sensor, tmp_path, "structure.dropout=0.4", "data.crop_size_px=32")
    present = torch.cat([sample.present for sample in batch_of(config, with_sensor, range(300))])
    assert present.any(1).all()
    # 0.4 each; both gone (0.16) gives one of them back: 0.4 - 0.08
    assert (~present).float().mean().item() == pytest.approx(0.32, abs=0.05)
    again = torch.cat([sample.present for sample in batch_of(config, with_sensor, range(300))])
    assert torch.equal(present, again)


def test_an_absent_modality_is_grey_whether_dropped_or_missing(with_sensor, tmp_path):
    config = config_of(with_sensor, tmp_path)
    (sample,) = batch_of(config, with_sensor, range(1))
    encoder = StructureEncoder(config.structure)
    assert encoder.num_channels == 5 and encoder.pictures == ((0, 1, 2), (4, 4, 4))
    image = sample.image.float() / 255
    full = encoder(image, sample.maps)
    dropped = encoder(image, sample.maps, None, torch.tensor([[True, False]]))
    assert torch.equal(dropped[:, :4], full[:, :4]) and (dropped[:, 4] == 0.5).all()
    missing = StructureEncoder(config_of(with_sensor, tmp_path, "structure.absent=[dsm]").structure)
    assert missing.stores == ("superpixels",) and missing.num_channels == 5
    assert torch.equal(missing(image, sample.maps), dropped)
    image, structure, _ = prepare_inputs(sample, encoder)
    assert torch.equal(structure, encoder(image, sample.maps))


def test_segments_are_those_of_the_first_segment_modality():
    ids, levels = torch.ones(1, 2, 2), torch.zeros(1, 2, 2)
    maps = {"dsm": levels, "superpixels": ids}
    structure = StructureConfig(modalities=("dsm", "superpixels"))
    assert StructureEncoder(structure).segments(maps) is ids
    assert StructureEncoder(StructureConfig(modalities=("dsm",))).segments(maps) is None
    shuffled = StructureConfig(modalities=("superpixels",), control="shuffled")
    assert StructureEncoder(shuffled).segments(maps) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("structure.absent=[sam]", "absent: names sam, which modalities does not"),
        ("structure.absent=[superpixels,dsm]", "absent: names all modalities"),
        ("structure.dropout=1.0", "dropout: must be at least 0 and below 1"),
        ("structure.modalities=[../a]", "'../a' is no name of a folder"),
        ("structure.modalities=[dsm,dsm]", "names a modality twice"),
    ],
)
def test_impossible_structures_are_refused(override, words):
    recipe = {"name": "a", "data": {"root": "b"}}
    with pytest.raises(ConfigError, match=words):
        config_from_dict(recipe, "test", [BOTH, override])


def test_two_modalities_train_and_one_may_be_missing_at_test_time(with_sensor, tmp_path):
    overrides = ("structure.dropout=0.3", "optim.num_epochs=1", "optim.warmup_epochs=0")
    config = config_of(with_sensor, tmp_path, *overrides)
    run = build_run(config, single_process())
    train(run)
    checkpoint = load_checkpoint(run.folder / "best.pth")
    assert set(checkpoint.identity.maps) == {"superpixels", "dsm"}
    reports = []
    for name, override in (("all", []), ("rest", ["structure.absent=[dsm]"])):
        changed = config_from_dict(checkpoint.identity.recipe, "checkpoint", override)
        evaluate_split(checkpoint, changed, "val", tmp_path / name, single_process())
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
    assert reports[0]["confusion"] != reports[1]["confusion"]


def test_infer_needs_a_sensor_to_be_absent(with_sensor, tmp_path):
    structure = config_of(with_sensor, tmp_path).structure
    with pytest.raises(ConfigError) as error:
        check_generated(structure, "best.pth")
    assert str(error.value) == (
        "best.pth was trained with a sensor (dsm), which cannot be made of RGB; go without it: "
        "structure.absent=[dsm]"
    )
    check_generated(replace(structure, absent=("dsm",)), "best.pth")
