from typing import ClassVar

import pytest
import torch

from configs.schema import EvalConfig, StructureConfig
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader
from datasets.tile_set import open_tile_set
from utils.evaluation.evaluate import Predictor, evaluate
from utils.evaluation.protocols import plan_labels
from utils.evaluation.sliding_window import views
from utils.precision import Precision

CPU = torch.device("cpu")


class ByBrightness(torch.nn.Module):
    """Class 0 where the image is dark, class 1 where it is bright; structure is not used."""

    def forward(self, image, structure):
        brightness = image.mean(1, keepdim=True)
        return torch.cat([0.5 - brightness, brightness - 0.5, *[-brightness - 9] * 4], 1)


class Picture:
    """An encoder that shows the image of the maps beside the maps."""

    value_stores = ()
    cell_px: ClassVar = {}

    def __call__(self, image, maps, structure_image=None):
        shown = image if structure_image is None else structure_image
        return (torch.cat([shown, *(levels.unsqueeze(1) for levels in maps.values())], 1),)


class Recorder(torch.nn.Module):
    """Keeps its inputs, which are its logits as well."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image, structure):
        self.seen.append((image.clone(), structure.clone()))
        return torch.cat([image, structure], 1)


def predictor(network=None, encoder=None, **settings):
    config = EvalConfig(**{"window_px": 40, "overlap_px": 8, "batch_size": 3, **settings})
    return Predictor(
        network or ByBrightness(), encoder or Picture(), Precision("fp32", CPU), config, CPU
    )


def logits_of(predictor, *members):
    return torch.cat([logits for _, logits in predictor.strips(*members)], 1)


def photo(*size):
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(97, 50), (41, 40), (1, 90), (20, 30)])
def test_predicts_whole_images_in_windows(size):
    """Image, maps and the image that they belong to are cut alike."""
    image, other, levels = photo(*size), photo(*size), torch.randint(0, 65536, (1, *size))
    for given, shown in ((None, image), (other, other)):
        logits = logits_of(predictor(Recorder()), image, {"height": levels}, given)
        expected = torch.cat([image / 255, shown / 255, levels.unsqueeze(1)], 1)[0]
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-5)
    expected = ByBrightness()(image / 255, None)[0]
    classes = predictor()(image, {})
    assert classes.dtype == torch.uint8 and classes.shape == size
    sure = (expected[0] - expected[1]).abs() > 1e-5
    assert torch.equal(classes[sure], expected.argmax(0)[sure].to(torch.uint8))


def test_the_first_of_equal_classes_is_taken():
    same = predictor(lambda image, structure: torch.zeros(len(image), 4, *image.shape[-2:]))
    assert not same(photo(50, 50), {}).any()


@pytest.mark.parametrize("other", [None, photo(32, 24)])
def test_structure_follows_the_geometry_and_is_encoded_after_it(other):
    structure = StructureConfig(modalities=("superpixels", "height"))
    encoder, network, image = StructureEncoder(structure), Recorder(), photo(32, 24)
    ids = torch.arange(32 * 24, dtype=torch.int32).view(1, 32, 24) // 50
    levels = torch.randint(1, 65536, (1, 32, 24), dtype=torch.int32)
    whole = predictor(network, encoder, scales=(1.0, 2.0), turns=8)
    logits = logits_of(whole, image, {"superpixels": ids, "height": levels}, other)
    undone = []
    for view, (seen, shown) in zip(views((1.0, 2.0), 8), network.seen, strict=True):
        viewed = view.photo(image.float() / 255)
        maps = {"superpixels": view.ids(ids), "height": view.levels(levels)}
        viewed_other = None if other is None else view.photo(other.float() / 255)
        assert torch.equal(seen, viewed)
        assert torch.equal(shown, encoder(viewed, maps, viewed_other)[0])
        undone.append(view.undo(torch.cat([seen, shown], 1), (32, 24)).softmax(1))
    torch.testing.assert_close(logits.softmax(0), sum(undone)[0] / 16)
    zoomed = network.seen[8][1]
    borders = zoomed[:, 3]  # mean colour, borders, ... : rebuilt, so 0 or 1 and nothing between
    assert ((borders == 0) | (borders == 1)).all() and borders.any()


def test_confusion_counts_every_valid_pixel_once(config, data_root, dist):
    tile_set, seen = open_tile_set(data_root), []
    loader = build_eval_loader(config, tile_set, "val", dist, ["full"])
    full, eroded = (plan_labels([kind], kind) for kind in ("full", "eroded"))
    confusion = evaluate(predictor(), loader, full, 6, dist, lambda *given: seen.append(given))
    valid = [(tile_set.read_target(tile_id) != 255).sum() for tile_id in tile_set.split("val")]
    assert confusion.dtype == torch.int64 and confusion.sum() == sum(valid)
    wrong = sum(((b.target[0] != p) & (b.target[0] != 255)).sum() for b, p, _ in seen)
    assert confusion.sum() - confusion.diagonal().sum() == wrong
    assert [counts.sum() for _, _, counts in seen] == valid
    with pytest.raises(ValueError, match="the loader reads"):
        evaluate(predictor(), loader, eroded, 6, dist)
