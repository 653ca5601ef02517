"""Attribution: ablated structure channels, their inputs, and counts of changed predictions."""

import dataclasses
import math

import pytest
import torch

from configs.schema import SamConfig, StructureConfig, SuperpixelsConfig
from datasets.encodings import ABSENT, StructureEncoder
from datasets.loaders import build_eval_loader
from datasets.structure_maps import store_folder
from datasets.tile_set import open_tile_set
from tests.conftest import make_config, single_process
from utils.errors import ConfigError, DataError
from utils.evaluation.attribution import (
    CONSTANT,
    SHUFFLED,
    SUPERPIXELS,
    ZEROED,
    AblatedEncoder,
    Ablation,
    AblationCounts,
    SuperpixelMaps,
    ablation_inputs,
    ablations_of,
    build_attribution_loader,
)
from utils.evaluation.bootstrap import differences, sample
from utils.evaluation.metrics import scores

CLASSES = ("land", "water", "road")
SOURCE_OF = {"a1": "a", "a2": "a", "b": "b", "c": "c"}
SAM_ZEROED, SAM_SHUFFLED, SAM_REPLACED = (
    Ablation(name=name, modalities=("sam",)) for name in (ZEROED, SHUFFLED, SUPERPIXELS)
)
UNTRIED = Ablation(name=SUPERPIXELS, modalities=("sam",), unmeasured="holds values")
ALL = Ablation(name=ZEROED, modalities=("sam", "height"))

STRUCTURE = StructureConfig(
    modalities=("sam", "height", "superpixels"),
    sam=SamConfig(encodings=("mean_color", "boundary", "log_area")),
    superpixels=SuperpixelsConfig(encodings=("boundary_distance", "mean_color")),
)
SLICES = {"sam": slice(0, 5), "height": slice(5, 6), "superpixels": slice(6, 10)}
OTHER = "of the other image: "


def row(*classes):
    return torch.tensor([classes], dtype=torch.uint8)


def findings(ablations, images, left_out=()):
    counts = AblationCounts(CLASSES, SOURCE_OF, ablations)
    for tile_id, (target, *predictions) in images.items():
        counts.add(tile_id, target, predictions)
    return counts.findings(single_process(), left_out)


def test_counts_by_hand():
    """Two tiles of one source image are one image; ignored pixels are in nothing."""
    found = findings(
        (SAM_ZEROED, UNTRIED, SAM_SHUFFLED),
        {
            "a1": (row(0, 1, 255, 1), row(0, 1, 0, 0), row(0, 0, 1, 1), row(0, 1, 0, 0)),
            "a2": (row(0, 0), row(0, 0), row(1, 0), row(0, 0)),
            "b": (row(1, 1), row(1, 1), row(1, 1), row(0, 1)),
        },
        left_out=("road",),
    )
    assert found.confusion.tolist() == [[3, 0, 0], [1, 3, 0], [0, 0, 0]]
    assert found.scores.iou[:2] == (3 / 4, 3 / 4) and found.scores.miou == 3 / 4
    assert found.num_sources == 2 and found.left_out == ("road",)
    zeroed, shuffled = found.effects
    assert (zeroed.ablation, shuffled.ablation) == (SAM_ZEROED, SAM_SHUFFLED)
    assert zeroed.confusion.tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 0]]
    assert zeroed.moved == 3 / 7  # one pixel of land, two of water
    assert zeroed.moved_by_class[:2] == pytest.approx((1 / 3, 2 / 4))
    assert math.isnan(zeroed.moved_by_class[2])
    assert zeroed.differences[1].value == pytest.approx(2 / 4 - 3 / 4)
    assert shuffled.moved == pytest.approx(1 / 7)
    # a: (3, 0 / 1, 1) unchanged and shuffled; b: (0, 0 / 0, 2), shuffled (0, 0 / 1, 1).
    a = [[3, 0, 0], [1, 1, 0], [0, 0, 0]]
    own, other = (
        torch.tensor([[a, [[0, 0, 0], water, [0, 0, 0]]]]) for water in ([0, 2, 0], [1, 1, 0])
    )
    paired = differences(sample(own.numpy(), [2]), sample(other.numpy(), [2]))
    assert shuffled.differences[:3] == paired[:3]
    expected = scores(other[0].sum(0), [2]).miou - 3 / 4
    assert shuffled.differences[0].value == pytest.approx(expected)


@pytest.fixture
def inputs():
    """Image, maps and images of the maps, as ``AblatedEncoder`` gets them."""
    generator = torch.Generator().manual_seed(0)

    def draw(high):
        return torch.randint(0, high, (1, 20, 30), generator=generator, dtype=torch.int32)

    maps = {"sam": draw(5), "height": draw(65536), "superpixels": draw(9)}
    maps |= {OTHER + name: levels.flip(-1) for name, levels in maps.items()}
    maps["superpixels of the image"] = draw(7)
    pictures = torch.rand(1, 6, 20, 30, generator=generator)
    return pictures[:, :3], maps, pictures


@pytest.mark.parametrize("modality", SLICES)
def test_only_the_channels_of_the_modality_change(inputs, modality):
    image, maps, pictures = inputs
    (own,) = StructureEncoder(STRUCTURE)(image, maps)
    # Colours, borders and areas of the other image, not of this one under the other's segments.
    of_other = {name: maps[OTHER + name] for name in SLICES}
    expected = {
        ZEROED: torch.full_like(own, ABSENT),
        SHUFFLED: StructureEncoder(STRUCTURE)(pictures[:, 3:], of_other)[0],
        CONSTANT: StructureEncoder(STRUCTURE)(
            image, {name: torch.ones_like(maps[name]) for name in SLICES}
        )[0],
        SUPERPIXELS: StructureEncoder(STRUCTURE)(
            image, dict.fromkeys(SLICES, maps["superpixels of the image"])
        )[0],
    }
    for ablation, replaced in expected.items():
        encoder = AblatedEncoder(STRUCTURE, Ablation(name=ablation, modalities=(modality,)))
        (changed,) = encoder(image, maps, pictures)
        for name, channels in SLICES.items():
            side = replaced if name == modality else own
            assert torch.equal(changed[:, channels], side[:, channels]), (ablation, name)
            assert not torch.equal(own[:, channels], replaced[:, channels])
    constant = expected[CONSTANT][0, SLICES["sam"]]
    torch.testing.assert_close(constant[:3, 0, 0], image.mean((0, 2, 3)))
    assert (constant[3] == 0).all() and (constant[4] == 1).all()


def test_all_modalities_zeroed_are_absent(inputs):
    everything = Ablation(name=ZEROED, modalities=STRUCTURE.modalities)
    encoder = AblatedEncoder(STRUCTURE, everything)
    assert (encoder(*inputs)[0] == ABSENT).all()
    assert everything.subject == "all modalities"
    assert encoder.value_stores == ("height", OTHER + "height")  # resized as values


def test_ablations_of_present_modalities_and_of_all():
    """And the reasons for those that are not measured."""
    names, found = ("superpixels", "sam", "depth_anything", "height", "slope"), {}
    structure = StructureConfig(modalities=names, absent=("slope",))
    for ablation in ablations_of(structure, "best.pth"):
        found.setdefault(" ".join(ablation.modalities), {})[ablation.name] = ablation.unmeasured
    measured = dict.fromkeys((ZEROED, SHUFFLED, CONSTANT, SUPERPIXELS))
    values = {**measured, CONSTANT: "same as zeroed", SUPERPIXELS: "holds values"}
    assert found == {
        "superpixels": {**measured, SUPERPIXELS: "is superpixels already"},
        "sam": measured,
        "depth_anything": values,
        "height": values,
        " ".join(names[:-1]): {ZEROED: None},
    }
    assert len(ablations_of(StructureConfig(modalities=("sam",)), "best.pth")) == 4


def test_a_network_without_structure_is_refused():
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
    own = [batch.image for batch in plain]
    for index, (expected, (shown, other)) in enumerate(zip(plain, pairs, strict=True)):
        assert shown.tile_ids == other.tile_ids == expected.tile_ids
        assert torch.equal(shown.maps["superpixels"], expected.maps["superpixels"])
        assert (shown.structure_image is None) == (step == 0)
        image, maps, pictures = ablation_inputs(shown, other)
        assert torch.equal(image, own[index])
        assert torch.equal(pictures[:, :3], own[(index + step) % 3])
        assert torch.equal(pictures[:, 3:], own[(index + step + 1) % 3])
        assert maps.keys() == {"superpixels", OTHER + "superpixels"}
        assert torch.equal(maps[OTHER + "superpixels"], other.maps["superpixels"])
    few = dataclasses.replace(tile_set, splits={"val": tile_set.split("val")[: step + 1]})
    with pytest.raises(DataError) as error:
        build_attribution_loader(config, few, "val", dist, ())
    assert str(error.value) == (
        f"attribution shuffles maps among the images of a split and needs {step + 2} of them with "
        f"structure.control={control}; 'val' of {data_root} has {step + 1}"
    )


@pytest.mark.parametrize("control", ["on", "shuffled"])
def test_superpixels_are_read_or_computed_and_are_the_same(control, data_root, tmp_path, dist):
    config = make_config(data_root, tmp_path, f"structure.control={control}")
    tile_set = open_tile_set(data_root)

    def maps_of(*overrides):
        structure = make_config(data_root, tmp_path, *overrides).structure
        return SuperpixelMaps(tile_set, structure, "val", (SAM_REPLACED,), dist.device)

    read, computed = maps_of(), maps_of("structure.superpixels.store=none")
    assert read.stores == ("superpixels",) and computed.stores == ()
    assert read.origin == f"read from {store_folder(data_root, 'superpixels')}"
    assert computed.origin == (
        f"computed on the fly, because the structure maps {store_folder(data_root, 'none')} are "
        "missing or not finished; make them with generate.py"
    )
    for shown, _ in build_attribution_loader(config, tile_set, "val", dist, read.stores):
        assert torch.equal(read(shown).int(), computed(shown))
    other = maps_of("structure.superpixels.compactness=3")
    assert other.stores == () and "settings.compactness: 3.0 | 10.0" in other.origin
    ablations = ablations_of(config.structure, "best.pth")
    idle = SuperpixelMaps(tile_set, config.structure, "val", ablations, dist.device)
    assert (idle.stores, idle.origin, idle(None)) == ((), "not needed", None)
