"""A source image in tiles is predicted and scored as if it had never been cut."""

import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.loaders import build_eval_loader
from datasets.preparation.classes import ClassFile
from datasets.preparation.folder import find_sources
from datasets.preparation.pairing.pairs import split_folders
from datasets.preparation.pipeline import Plan, prepare
from datasets.preparation.writer import Tiling
from datasets.rasters import write_raster
from datasets.tile_set import NamedSplit, open_tile_set
from tests.conftest import make_config, single_process
from utils.boxes import Box
from utils.errors import DataError
from utils.evaluation.evaluate import Predictor, evaluate
from utils.evaluation.measurements import Measurements
from utils.evaluation.morphology import erode
from utils.evaluation.protocols import plan_split_labels
from utils.precision import Precision

NUM_CLASSES = 4
CLASSES = ClassFile(
    names=("sea", "land", "road", "clutter"),
    colors=((0, 0, 255), (0, 255, 0), (90, 90, 90), (255, 0, 0)),
    values=(0, 1, 2, 3),
    ignore_colors=(),
    ignore_values=(9,),
)
KINDS = ("full", "eroded")


class Pointwise(torch.nn.Module):
    """A 1x1 convolution of whole numbers: what it says of a pixel is exact in any tile."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, NUM_CLASSES, 1)
        generator = torch.Generator().manual_seed(0)
        for values in self.convolution.parameters():
            values.data = torch.randint(-9, 10, values.shape, generator=generator).float()

    def forward(self, image, structure):
        return self.convolution((255 * image).round())


class Encoder:
    """No structure: the image in its place."""

    cell_px: ClassVar = {}

    def __call__(self, image, maps, structure_image=None):
        return (image,)


def write_tree(folder, sizes, seed=0):
    """Noise of these sizes to train with and to validate; masks in blocks, some pixels ignored."""
    rng = np.random.default_rng(seed)
    for number, size in enumerate(sizes):
        for split in ("train", "val"):
            mask = np.kron(rng.integers(0, NUM_CLASSES, (17, 17)), np.ones((13, 13), int))
            mask = np.where(rng.random(size) < 0.02, 9, mask[: size[0], : size[1]])
            for what, array in (("images", rng.integers(0, 256, (*size, 3))), ("labels", mask)):
                path = folder / split / what / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(path)
    return folder


def cut(root, tree, tile_size_px=None, overlap_px=0):
    sources = find_sources(split_folders(tree))
    lists = {split: tuple(source.id for source in found) for split, found in sources.items()}
    plan = Plan(
        name=root.name,
        origin="folder",
        classes={"full": CLASSES},
        sources=sources,
        split=NamedSplit(name="folders", source="folders", lists=lists),
        tiling=Tiling(tile_size_px=tile_size_px, overlap_px=overlap_px),
        prepared_with={},
    )
    prepare(root, plan, 1)
    return open_tile_set(root)


def assemble(tile_set, split, *overrides, on_tile=None):
    """The assembled images of the pointwise network by source, and their measurements."""
    off, dist = "structure.control=off", single_process()
    config = make_config(tile_set.root, tile_set.root.parent, off, *overrides)
    labels = plan_split_labels(tile_set, split, config.eval.labels, KINDS)
    loader = build_eval_loader(config, tile_set, split, dist, labels.read)
    precision = Precision("fp32", dist.device)
    predictor = Predictor(Pointwise(), Encoder(), precision, config.eval, dist.device)
    sources = {tile_set.tiles[tile_id].source for tile_id in tile_set.split(split)}
    measurements, found = Measurements(tile_set.classes, sources, labels), []

    def add(assembled):
        measurements.add(assembled)
        found.append(assembled)

    observers = {"on_tile": on_tile, "on_image": add, "on_strip": measurements.add_strip}
    evaluate(predictor, loader, labels, NUM_CLASSES, dist, **observers)
    return sorted(found, key=lambda assembled: assembled.source), measurements


def assert_same(ours, theirs):
    """Compare predictions and targets of every image, and all that is measured of them."""
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one.source == other.source
        assert torch.equal(one.prediction, other.prediction), one.source
        for kind in KINDS:
            assert torch.equal(one.targets[kind], other.targets[kind]), (one.source, kind)
            assert torch.equal(one.confusions[kind], other.confusions[kind])
    for name in ("_boundaries", "_objects"):
        np.testing.assert_array_equal(getattr(ours[1], name), getattr(theirs[1], name))
    # The shares of tiles sum to one up to rounding, so a confidence may differ by some 2**-24.
    assert ours[1]._calibration[:, 0].sum() == theirs[1]._calibration[:, 0].sum()


SIZES = [(97, 150), (33, 211), (64, 64), (1, 170), (170, 1), (20, 31), (129, 65)]


@pytest.mark.parametrize("seed", range(2))
def test_tiles_stitched_are_the_image_at_once(tmp_path, seed):
    """Random sides and overlaps of the tiles, training tiles and others, from the real files."""
    rng = random.Random(seed)
    tree = write_tree(tmp_path / "tree", SIZES, seed)
    side = rng.randint(32, 90)
    tiles = cut(tmp_path / "tiles", tree, side, rng.randint(1, side * 3 // 4))
    whole = cut(tmp_path / "whole", tree)
    windows = (f"eval.window_px={rng.randint(32, 80)}", f"eval.overlap_px={rng.randint(0, 31)}")
    for split in ("train", "val"):
        assert len(tiles.split(split)) > len(whole.split(split)) == len(SIZES)
        at_once = assemble(whole, split, "eval.window_px=1000")
        assert_same(assemble(tiles, split, *windows), at_once)
        for assembled, size in zip(at_once[0], SIZES, strict=True):
            assert assembled.prediction.shape == size
            image = whole.read_image(assembled.source)
            logits = Pointwise()(torch.from_numpy(image).movedim(-1, 0)[None] / 255, None)[0]
            assert torch.equal(assembled.prediction, logits.argmax(0).to(torch.uint8))
            expected = erode(assembled.targets["full"].numpy())
            np.testing.assert_array_equal(assembled.targets["eroded"], expected)


@pytest.fixture
def tiles(tmp_path):
    return cut(tmp_path / "tiles", write_tree(tmp_path / "tree", SIZES[:3]), 40, 20)


def test_a_tile_by_itself_is_scored_with_its_own_borders(tiles):
    images, _ = assemble(tiles, "train", "eval.unit=tile")
    assert len(images) == len(tiles.split("train"))
    for assembled in images:
        eroded = erode(assembled.targets["full"].numpy())
        np.testing.assert_array_equal(assembled.targets["eroded"], eroded)
    sources, _ = assemble(tiles, "train")
    pixels = [sum(int(c.confusions["full"].sum()) for c in each) for each in (images, sources)]
    assert pixels[0] > pixels[1] == sum(int((c.targets["full"] != 255).sum()) for c in sources)


def test_what_no_tile_covers_is_ignored(tmp_path):
    """A part of the split's tiles, as if the others had been filtered."""
    tree = write_tree(tmp_path / "tree", [(140, 150)])
    tiles, whole = cut(tmp_path / "tiles", tree, 40, 10), cut(tmp_path / "whole", tree)
    ((complete,), _) = assemble(whole, "train")
    kept = sorted(random.Random(0).sample(tiles.split("train"), 7))
    (tiles.root / "splits" / "train.txt").write_text("\n".join(kept))
    part = open_tile_set(tiles.root)
    ((assembled,), _) = assemble(part, "train", "eval.labels=full")
    covered = np.zeros((140, 150), bool)
    for tile_id in kept:
        covered[part.tiles[tile_id].slices] = True
    top, left = (np.flatnonzero(covered.any(axis))[0] for axis in (1, 0))
    box = Box(top, left, *assembled.prediction.shape).slices
    assert covered.sum() == covered[box].sum()
    expected = np.where(covered[box], complete.targets["full"][box], 255)
    np.testing.assert_array_equal(assembled.targets["full"], expected)
    assert torch.equal(assembled.prediction[covered[box]], complete.prediction[box][covered[box]])
    assert assembled.confusions["full"].sum() == (expected != 255).sum()


def test_every_tile_is_shown_once_as_it_was_scored(tiles):
    """Blended, and with eroded labels made over the whole source image."""
    seen = []
    images, _ = assemble(
        tiles, "train", "eval.labels=eroded", on_tile=lambda *given: seen.append(given)
    )
    assembled_of = {assembled.source: assembled for assembled in images}
    assert sorted(batch.tile_ids[0] for batch, _, _ in seen) == sorted(tiles.split("train"))
    for batch, prediction, confusion in seen:
        place = tiles.tiles[batch.tile_ids[0]]
        assembled = assembled_of[place.source]
        assert torch.equal(prediction, assembled.prediction[place.slices])
        assert torch.equal(batch.target[0], assembled.targets["eroded"][place.slices])
        assert confusion.sum() == (batch.target != 255).sum()
        image = tiles.read_image(place.id)
        np.testing.assert_array_equal(batch.image[0].movedim(0, -1), image)


def test_tiles_that_disagree_about_a_pixel_are_one_sentence(tiles):
    tile_id = tiles.split("train")[1]
    target = tiles.read_target(tile_id)
    write_raster(tiles.target_path(tile_id), np.where(target < 255, 3 - target, 255).astype("u1"))
    with pytest.raises(
        DataError,
        match=rf"tile '{tile_id}' and other tiles of the source image 'train0' disagree on \d+ "
        r"shared pixels \(full labels\); prepare the data set again",
    ):
        assemble(tiles, "train")


def test_a_tile_of_another_size_than_the_table_says_is_one_sentence(tiles):
    table = tiles.root / "tiles.csv"
    table.write_text(table.read_text().replace("40,40", "40,39", 1))
    with pytest.raises(DataError, match=r"is \(40, 40\) and tiles.csv says \(40, 39\) \(height, w"):
        assemble(open_tile_set(tiles.root), "train")
