"""Changed structure maps: which channels change and to what, and where the other image is from."""

import dataclasses

import pytest
import torch

from configs.schema import DepthAnythingConfig, SamConfig, StructureConfig, SuperpixelsConfig
from datasets.encodings import ABSENT, StructureEncoder
from datasets.loaders import build_eval_loader
from datasets.structure_maps import store_folder
from datasets.tile_set import open_tile_set
from models.structure.superpixels import Superpixels
from tests.conftest import make_config
from utils.errors import ConfigError, DataError
from utils.evaluation.attribution import (
    CONSTANT,
    SHUFFLED,
    SUPERPIXELS,
    ZEROED,
    AblatedEncoder,
    Ablation,
    SuperpixelMaps,
    ablation_inputs,
    ablations_of,
    build_attribution_loader,
)

STRUCTURE = StructureConfig(
    modalities=("sam", "height", "superpixels"),
    sam=SamConfig(encodings=("mean_color", "boundary", "log_area")),
    superpixels=SuperpixelsConfig(encodings=("boundary_distance", "mean_color")),
)
SLICES = {"sam": slice(0, 5), "height": slice(5, 6), "superpixels": slice(6, 10)}
SIZE = (1, 20, 30)


@pytest.fixture
def sample():
    """Picture, maps and pictures as ``AblatedEncoder`` gets them."""
    generator = torch.Generator().manual_seed(0)

    def draw(high, size=SIZE):
        return torch.randint(0, high, size, generator=generator, dtype=torch.int32)

    maps = {"sam": draw(5), "height": draw(65536), "superpixels": draw(9)}
    maps |= {f"of the other image: {name}": levels.flip(-1) for name, levels in maps.items()}
    maps["superpixels of the image"] = draw(7)
    pictures = torch.rand(1, 6, *SIZE[1:], generator=generator)
    return pictures[:, :3], maps, pictures


def of_other(maps):
    head = "of the other image: "
    return {name.removeprefix(head): x for name, x in maps.items() if name.startswith(head)}


def test_encoder_tells_the_channels_of_every_modality():
    encoder = StructureEncoder(STRUCTURE)
    assert encoder.channels == SLICES and encoder.num_channels == 10
    absent = StructureEncoder(dataclasses.replace(STRUCTURE, absent=("sam",)))
    assert absent.channels == SLICES
    assert StructureEncoder(StructureConfig(control="off")).channels == {}


@pytest.mark.parametrize("modality", SLICES)
@pytest.mark.parametrize("change", [ZEROED, SHUFFLED, CONSTANT, SUPERPIXELS])
def test_only_the_channels_of_the_modality_change(sample, modality, change):
    encoder = StructureEncoder(STRUCTURE)
    image, maps, pictures = sample
    own = encoder(image, maps)
    changed = AblatedEncoder(STRUCTURE, Ablation(name=change, modalities=(modality,)))(
        image, maps, pictures
    )
    for name, channels in SLICES.items():
        assert torch.equal(changed[:, channels], own[:, channels]) == (name != modality)


def test_what_each_change_shows(sample):
    encoder = StructureEncoder(STRUCTURE)
    image, maps, pictures = sample

    def shown(change, modality):
        changed = AblatedEncoder(STRUCTURE, Ablation(name=change, modalities=(modality,)))
        return changed(image, maps, pictures)[0, SLICES[modality]]

    assert (shown(ZEROED, "sam") == ABSENT).all()
    # Colours, borders and areas of the other image, not of this one under the other's segments.
    other = encoder(pictures[:, 3:], of_other(maps))
    for modality, channels in SLICES.items():
        assert torch.equal(shown(SHUFFLED, modality), other[0, channels])
    constant = shown(CONSTANT, "sam")
    torch.testing.assert_close(constant[:3, 0, 0], image.mean((0, 2, 3)))
    assert (constant[:3] == constant[:3, :1, :1]).all()
    assert (constant[3] == 0).all() and (constant[4] == 1).all()
    instead = encoder(image, {**maps, "sam": maps["superpixels of the image"]})
    assert torch.equal(shown(SUPERPIXELS, "sam"), instead[0, SLICES["sam"]])


def test_all_modalities_zeroed_are_what_the_stem_makes_zero(sample):
    everything = Ablation(name=ZEROED, modalities=STRUCTURE.modalities)
    changed = AblatedEncoder(STRUCTURE, everything)(*sample)
    assert (changed == ABSENT).all()
    assert everything.subject == "all modalities"


def test_levels_of_the_other_image_are_resized_as_values(sample):
    changed = AblatedEncoder(STRUCTURE, Ablation(name=ZEROED, modalities=("sam",)))
    assert changed.value_stores == ("height", "of the other image: height")


def test_changes_and_the_reasons_for_none():
    structure = StructureConfig(modalities=("superpixels", "sam", "height"), absent=("height",))
    found = ablations_of(structure, "best.pth")
    assert [(c.name, c.modalities, c.unmeasured) for c in found] == [
        (ZEROED, ("superpixels",), None),
        (SHUFFLED, ("superpixels",), None),
        (CONSTANT, ("superpixels",), None),
        (SUPERPIXELS, ("superpixels",), "is superpixels already"),
        (ZEROED, ("sam",), None),
        (SHUFFLED, ("sam",), None),
        (CONSTANT, ("sam",), None),
        (SUPERPIXELS, ("sam",), None),
        (ZEROED, ("superpixels", "sam"), None),
    ]


@pytest.mark.parametrize("name", ["depth_anything", "height"])
def test_values_have_no_segments_to_replace_and_their_constant_is_zero(name, sample):
    found = ablations_of(StructureConfig(modalities=(name,)), "best.pth")
    assert [(c.name, c.unmeasured) for c in found] == [
        (ZEROED, None),
        (SHUFFLED, None),
        (CONSTANT, "same as zeroed"),
        (SUPERPIXELS, "holds values"),
    ]
    image, maps, _ = sample
    structure = StructureConfig(modalities=(name,), depth_anything=DepthAnythingConfig())
    middle = torch.full_like(maps["height"], (1 + 65535) // 2)
    assert (StructureEncoder(structure)(image, {name: middle}) == ABSENT).all()


def test_without_structure_there_is_nothing_to_tell():
    with pytest.raises(ConfigError) as error:
        ablations_of(StructureConfig(control="off"), "best.pth")
    assert str(error.value) == (
        "best.pth: structure.control is off, so the second branch gets the RGB image and there is "
        "no structure to ablate; use a checkpoint trained with structure.control=on"
    )


@pytest.mark.parametrize(("control", "step"), [("on", 0), ("shuffled", 1)])
def test_tiles_come_as_in_an_evaluation_with_the_next_image_beside(
    control, step, data_root, tmp_path, dist
):
    config = make_config(data_root, tmp_path, f"structure.control={control}")
    tile_set = open_tile_set(data_root)
    plain = list(build_eval_loader(config, tile_set, "val", dist, ["full"]))
    pairs = list(build_attribution_loader(config, tile_set, "val", dist, ()))
    own = [
        batch.image
        for batch in build_eval_loader(
            make_config(data_root, tmp_path), tile_set, "val", dist, ["full"]
        )
    ]
    assert len(pairs) == len(plain) == 3
    for index, (expected, (shown, other)) in enumerate(zip(plain, pairs, strict=True)):
        assert shown.tile_ids == other.tile_ids == expected.tile_ids
        assert torch.equal(shown.maps["superpixels"], expected.maps["superpixels"])
        assert (shown.structure_image is None) == (step == 0)
        assert torch.equal(other.structure_image, own[(index + step + 1) % 3])
        image, maps, pictures = ablation_inputs(shown, other)
        assert torch.equal(image, own[index])
        assert torch.equal(pictures[:, :3], own[(index + step) % 3])
        assert torch.equal(pictures[:, 3:], own[(index + step + 1) % 3])
        assert maps.keys() == {"superpixels", "of the other image: superpixels"}


@pytest.mark.parametrize(("control", "number"), [("on", 2), ("shuffled", 3)])
def test_a_split_of_too_few_images_is_refused(control, number, data_root, tmp_path, dist):
    config = make_config(data_root, tmp_path, f"structure.control={control}")
    tile_set = open_tile_set(data_root)
    few = {"val": tile_set.split("val")[: number - 1]}
    tile_set = dataclasses.replace(tile_set, splits=few)
    with pytest.raises(DataError) as error:
        build_attribution_loader(config, tile_set, "val", dist, ())
    assert str(error.value) == (
        f"attribution shuffles maps among the images of a split and needs {number} of them with "
        f"structure.control={control}; 'val' of {data_root} has {number - 1}"
    )


SAM_REPLACED = (Ablation(name=SUPERPIXELS, modalities=("sam",)),)


@pytest.mark.parametrize("control", ["on", "shuffled"])
def test_superpixels_are_read_or_made_and_are_the_same(control, data_root, tmp_path, dist):
    config = make_config(data_root, tmp_path, f"structure.control={control}")
    tile_set = open_tile_set(data_root)
    build = lambda: Superpixels(segment_size_px=8)  # noqa: E731
    read = SuperpixelMaps(tile_set, config.structure, "val", SAM_REPLACED, build)
    assert read.stores == ("superpixels",)
    assert read.origin == f"read from {store_folder(data_root, 'superpixels')}"
    other = make_config(data_root, tmp_path, "structure.superpixels.store=none")
    made = SuperpixelMaps(tile_set, other.structure, "val", SAM_REPLACED, build)
    assert made.stores == ()
    assert made.origin == (
        f"computed on the fly, because the structure maps {store_folder(data_root, 'none')} are "
        "missing or not finished; make them with generate.py"
    )
    loader = build_attribution_loader(config, tile_set, "val", dist, read.stores)
    for shown, _ in loader:
        assert torch.equal(read(shown).int(), made(shown))


def test_superpixels_of_other_settings_are_computed_on_the_fly(data_root, tmp_path):
    config = make_config(data_root, tmp_path, "structure.superpixels.compactness=3")
    made = SuperpixelMaps(
        open_tile_set(data_root), config.structure, "val", SAM_REPLACED, Superpixels
    )
    assert made.stores == () and "settings.compactness: 3.0 | 10.0" in made.origin


def test_no_generator_is_built_where_nobody_needs_superpixels(data_root, config):
    changes = ablations_of(config.structure, "best.pth")
    idle = SuperpixelMaps(open_tile_set(data_root), config.structure, "val", changes, pytest.fail)
    assert (idle.stores, idle.origin, idle(None)) == ((), "not needed", None)
