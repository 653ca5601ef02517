import pytest
import torch

from benchmarks.inference import Loop, build, scene
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
    """An encoder that shows the picture."""

    value_stores = ()

    def __call__(self, image, maps, structure_image=None):
        return image


class Recorder(torch.nn.Module):
    """Keeps what it is shown; prefers class 0 by the image, class 1 by the structure."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image, structure):
        self.seen.append((image.clone(), structure.clone()))
        return torch.stack([image.sum(1), structure.sum(1)], 1)


def predictor(network=None, encoder=None, **settings):
    config = EvalConfig(**{"window_px": 40, "overlap_px": 8, "batch_size": 3, **settings})
    return Predictor(
        network or ByBrightness(), encoder or Picture(), Precision("fp32", CPU), config, CPU
    )


def logits_of(predictor, *members):
    return torch.cat([logits for _, logits in predictor.strips(*members)], 1)


@pytest.mark.parametrize("size", [(97, 50), (40, 40), (41, 40), (1, 90), (20, 30)])
def test_predicts_whole_images_in_windows(size):
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    expected = ByBrightness()(image / 255, None)[0]
    torch.testing.assert_close(logits_of(predictor(), image, {}), expected, atol=1e-6, rtol=1e-5)
    classes = predictor()(image, {})
    assert classes.dtype == torch.uint8 and classes.shape == size
    sure = (expected[0] - expected[1]).abs() > 1e-5
    assert torch.equal(classes[sure], expected.argmax(0)[sure].to(torch.uint8))


def test_equals_the_loop_that_holds_the_whole_image():
    """A real network and its encoder; four windows in a batch beside one at a time."""
    network, encoder = build("tiny", CPU)
    image, maps = scene((650, 700), encoder)
    whole = Predictor(network, encoder, Precision("fp32", CPU), EvalConfig(), CPU)
    logits = Loop(network, encoder, padded=True).logits(image, maps, ours=True)
    torch.testing.assert_close(logits_of(whole, image, maps), logits, atol=1e-5, rtol=1e-5)


def test_the_first_of_equal_classes_is_taken():
    image = torch.zeros(1, 3, 50, 50, dtype=torch.uint8)
    same = predictor(lambda image, structure: torch.zeros(len(image), 4, *image.shape[-2:]))
    assert not same(image, {}).any()


@pytest.mark.parametrize("turns", [2, 8])
def test_a_network_that_does_not_mind_turns_gives_the_same(turns):
    image = torch.randint(0, 256, (1, 3, 97, 50), dtype=torch.uint8)
    once, turned = (logits_of(predictor(turns=number), image, {}) for number in (1, turns))
    torch.testing.assert_close(turned, once.log_softmax(0), atol=1e-5, rtol=0)


def test_every_turn_is_predicted_and_averaged_by_hand():
    """A network that minds: it sees a ramp over its own columns beside the brightness."""

    def network(image, structure):
        ramp = torch.linspace(0, 1, image.shape[-1]).expand(len(image), *image.shape[-2:])
        return torch.stack([image.mean(1), ramp], 1)

    image = torch.randint(0, 256, (1, 3, 30, 20), dtype=torch.uint8)
    logits = logits_of(predictor(network, turns=8), image, {})
    brightness = image[0].float().mean(0) / 255
    across, down = (torch.linspace(0, 1, n) for n in (20, 30))
    ramps = [across.expand(30, 20), down.view(-1, 1).expand(30, 20)]
    ramps = [x for ramp in ramps for x in (ramp, 1 - ramp)]  # four of them, each met twice
    mean = sum(torch.stack([brightness, ramp]).softmax(0) for ramp in ramps) / 4
    torch.testing.assert_close(logits.softmax(0), mean)


def test_structure_follows_the_geometry_and_is_encoded_after_it():
    structure = StructureConfig(modalities=("superpixels", "height"))
    encoder, network = StructureEncoder(structure), Recorder()
    image = torch.randint(0, 256, (1, 3, 32, 24), dtype=torch.uint8)
    ids = torch.arange(32 * 24, dtype=torch.int32).view(1, 32, 24) // 50
    levels = torch.randint(1, 65536, (1, 32, 24), dtype=torch.int32)
    whole = predictor(network, encoder, scales=(1.0, 2.0), turns=8)
    logits = logits_of(whole, image, {"superpixels": ids, "height": levels})
    assert logits.shape == (2, 32, 24) and len(network.seen) == 16
    for view, (seen, shown) in zip(views((1.0, 2.0), 8), network.seen, strict=True):
        photo = view.photo(image.float() / 255)
        maps = {"superpixels": view.ids(ids), "height": view.levels(levels)}
        assert torch.equal(seen, photo)
        assert torch.equal(shown, encoder(photo, maps))
    zoomed = network.seen[8][1]
    borders = zoomed[:, 3]  # mean colour, borders, ... : rebuilt, so 0 or 1 and nothing between
    assert ((borders == 0) | (borders == 1)).all() and borders.any()


def test_the_image_of_other_maps_is_turned_with_them():
    seen = []

    class Other(Picture):
        def __call__(self, image, maps, structure_image=None):
            seen.append((image, structure_image))
            return structure_image

    image, other = (torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8) for _ in range(2))
    logits_of(predictor(Recorder(), Other(), turns=8), image, {}, other)
    assert len(seen) == 8
    for view, (photo, structure_photo) in zip(views((1.0,), 8), seen, strict=True):
        assert torch.equal(photo, view.photo(image.float() / 255))
        assert torch.equal(structure_photo, view.photo(other.float() / 255))


def test_confusion_counts_every_valid_pixel_once(config, data_root, dist):
    tile_set = open_tile_set(data_root)
    loader = build_eval_loader(config, tile_set, "val", dist, ["full"])
    seen = []
    confusion = evaluate(
        predictor(),
        loader,
        plan_labels(["full"], "full"),
        6,
        dist,
        lambda *given: seen.append(given),
    )
    targets = [tile_set.read_target(tile_id) for tile_id in tile_set.split("val")]
    assert confusion.dtype == torch.int64
    assert confusion.sum() == sum((target != 255).sum() for target in targets)
    batch, prediction, _ = seen[0]
    assert prediction.shape == batch.target.shape[1:]
    wrong = sum(((b.target[0] != p) & (b.target[0] != 255)).sum() for b, p, _ in seen)
    assert confusion.sum() - confusion.diagonal().sum() == wrong
    own = [counts.sum() for _, _, counts in seen]
    assert own == [(target != 255).sum() for target in targets]
