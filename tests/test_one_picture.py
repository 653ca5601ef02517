"""One picture: every way into the programs shows the same pixels of a file.

Files of all kinds are drawn at random, read by rasterio and Pillow, and by every way into the
programs. In the suite for some seconds; for longer, with files of another seed, or one file again::

    python -m tests.test_one_picture SECONDS [SEED [INDEX]]
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from PIL import Image, ImageOps
from rasterio.enums import ColorInterp, MaskFlags

from datasets.dataset import TileDataset
from datasets.preparation import folder as folder_command
from datasets.samplers import SampleKey
from datasets.tile_set import TileSet, open_tile_set
from datasets.transforms import Geometry
from tests.utils.rasters.drawn_files import RENDERINGS, Drawn, draw
from utils.boxes import Box
from utils.inference.inputs import choose_rendering, find_inputs, open_input
from utils.rasters.reading import Raster, open_scene
from utils.rasters.rendering import AS_STORED, Rendering, stretch_text

SECONDS = 15
FILES_AT_A_TIME = 30
EVERYTHING = slice(None)
IGNORED = 7  # a value of the masks
CLASSES = {
    "classes": [
        {"name": name, "color": [9, 9, i]} for i, name in enumerate(("sea", "sand", "wood"))
    ],
    "ignore": {"values": [IGNORED]},
}
# Orientation -> from the stored to the seen image.
TURNS = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


class Picture(NamedTuple):
    """What a file holds.

    ``(H, W, 3)`` uint8 to be seen, ``(H, W)`` bool, True = data, and ``(H, W, bands)`` as stored.
    """

    rgb: np.ndarray
    valid: np.ndarray
    values: np.ndarray


def picture_of(drawn: Drawn) -> Picture:
    """The picture by independent readers and the rules of ``utils.rasters.reading``."""
    rendering, *_ = RENDERINGS[drawn.rendering]
    turn = TURNS[1 if drawn.is_placed else drawn.orientation]
    if not drawn.by_pillow:
        return Picture(*map(turn, by_rasterio(drawn, rendering)))
    with Image.open(drawn.path) as image:
        image.load()
        seen = image if drawn.is_placed else ImageOps.exif_transpose(image)
        found = by_pillow(drawn, seen, rendering)
    return found if drawn.valid is None else found._replace(valid=turn(drawn.valid))


def by_pillow(drawn: Drawn, image: Image.Image, rendering: Rendering) -> Picture:
    """The picture of an image that Pillow has decoded and turned."""
    size, names = (image.height, image.width), image.getbands()
    opaque = np.asarray(image.convert("RGBA"))[..., 3] != 0
    if image.mode in ("P", "CMYK"):
        shown = np.asarray(image.convert("RGB"))
        values = shown if image.mode == "CMYK" else np.asarray(image).reshape(*size, -1)
        bands = rendering.bands if image.mode == "CMYK" and rendering.bands else (1, 2, 3)
        shown = shown[..., [band - 1 for band in bands]]
    else:
        values = np.asarray(image).reshape(*size, -1)
        values = values.astype(np.uint8) if image.mode == "1" else values
        bands = rendering.bands or ((1, 2, 3) if len(names) >= 3 else (1,))
        shown = values[..., [band - 1 for band in bands]] * (255 if image.mode == "1" else 1)
        if names[-1] == "A" and (rendering.alpha_is_data or len(names) in rendering.bands):
            opaque[:] = True
    if drawn.no_data is not None:
        opaque &= (values != drawn.no_data).any(axis=-1)
    return Picture(to_bytes(shown, rendering, is_inverted=False), opaque, values)


def by_rasterio(drawn: Drawn, rendering: Rendering) -> Picture:
    """The picture of the stored pixels that GDAL reads."""
    with rasterio.open(drawn.path) as dataset:
        values = np.moveaxis(dataset.read(), 0, -1)
        if drawn.values is not None:
            np.testing.assert_array_equal(values, drawn.values, "the drawing itself is wrong")
        bands = shown_bands(dataset, rendering)
        shown = values[..., [band - 1 for band in bands]]
        valid = valid_of(dataset, values, rendering)
        if dataset.colorinterp[0] == ColorInterp.palette and bands == (1,):
            table = np.zeros((1 << 16, 3), np.uint8)
            for index, color in dataset.colormap(1).items():
                table[index] = color[:3]
            rgb = to_bytes(table[shown[..., 0]], rendering, is_inverted=False)
            return Picture(rgb, valid, values)
    valid &= ~np.isnan(shown).any(axis=-1)
    if drawn.bits < 8:
        shown = shown * (255 / ((1 << drawn.bits) - 1))
        if drawn.kind == "PNG by GDAL" and drawn.bits > 1:
            values = np.rint(shown).astype(np.uint8)  # Pillow decodes it to 8 bits
    return Picture(to_bytes(shown, rendering, is_inverted=drawn.is_inverted), valid, values)


def shown_bands(dataset: rasterio.DatasetReader, rendering: Rendering) -> tuple[int, ...]:
    """The bands asked for, else those that the file names, else the first three, else the first."""
    colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    if rendering.bands:
        return rendering.bands
    if all(dataset.colorinterp.count(color) == 1 for color in colors):
        return tuple(dataset.colorinterp.index(color) + 1 for color in colors)
    has_alpha = ColorInterp.alpha in dataset.colorinterp and not rendering.alpha_is_data
    return (1, 2, 3) if dataset.count - has_alpha >= 3 else (1,)


def valid_of(
    dataset: rasterio.DatasetReader, values: np.ndarray, rendering: Rendering
) -> np.ndarray:
    """A mask, else the no-data value in all bands, and declared alpha that is not shown as data."""
    flags = {flag for band in dataset.mask_flag_enums for flag in band}
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return dataset.dataset_mask() != 0
    alpha = None
    if ColorInterp.alpha in dataset.colorinterp:
        alpha = dataset.colorinterp.index(ColorInterp.alpha)
        if rendering.alpha_is_data or alpha + 1 in rendering.bands:
            alpha = None
    valid = np.ones(values.shape[:2], bool)
    if dataset.nodata is not None:
        others = [band for band in range(dataset.count) if band != alpha]
        tag = dataset.nodata
        is_tag = np.isnan(values) if np.isnan(tag) else values == values.dtype.type(tag)
        valid &= ~is_tag[..., others].all(axis=-1)
    if alpha is not None:
        valid &= values[..., alpha] != 0
    if ColorInterp.alpha not in dataset.colorinterp and dataset.count != 4:
        # Of four bands, rasterio may take the last one alone.
        np.testing.assert_array_equal(valid, dataset.dataset_mask() != 0)
    return valid


def to_bytes(shown: np.ndarray, rendering: Rendering, *, is_inverted: bool) -> np.ndarray:
    """Values between black and white as 0..255, three channels."""
    shown = np.broadcast_to(shown, (*shown.shape[:2], 3)).astype(np.float64)
    low, high = np.moveaxis(np.array(rendering.stretch or ((0, 255),)), -1, 0)
    levels = np.rint(np.clip((shown - low) / (high - low), 0, 1) * 255)
    levels = 255 - levels if is_inverted else levels
    return np.where(np.isnan(levels), 0, levels).astype(np.uint8)


class Comparison:
    """Comparison of drawn files with what the programs read of them.

    Attributes:
        num_files: by kind.
        differences: a text for each.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.num_files: Counter[str] = Counter()
        self.differences: list[str] = []

    def run(self, indices: Sequence[int]) -> None:
        """Draw files and compare every way in."""
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing places
            groups: dict[str, dict[str, tuple[Drawn, Picture]]] = {}
            for index in indices:
                drawn = draw(Path(name), self.seed, index)
                self.num_files[drawn.kind] += 1
                with self._collected(drawn):
                    picture = picture_of(drawn)
                    compare_reader(drawn, picture, np.random.default_rng(index))
                    group = groups.setdefault(drawn.rendering, {})
                    group[drawn.path.stem] = drawn, picture
            batch = indices[0] // FILES_AT_A_TIME
            for rendering, group in groups.items():
                is_cut = ([*RENDERINGS].index(rendering) + batch) % 2 == 0
                self._compare_set(Path(name) / rendering, group, is_cut)

    def _compare_set(
        self, tree: Path, group: dict[str, tuple[Drawn, Picture]], is_cut: bool
    ) -> None:
        """Prepare files of one rendering, and compare what is made of them."""
        for path in (tree / "train" / "images").glob("*"):
            if path.name[:6] not in group:  # it differs anyway
                path.unlink()
        masks = {}
        (tree / "train" / "labels").mkdir()
        for stem, (_, picture) in group.items():
            rng = np.random.default_rng(int(stem))
            masks[stem] = rng.choice(np.uint8([0, 1, 2, IGNORED]), picture.valid.shape)
            Image.fromarray(masks[stem]).save(tree / "train" / "labels" / f"{stem}.png")
        members = [drawn for drawn, _ in group.values()]
        with self._collected(*members):
            tile_set = prepare(tree, is_cut)
            for stem, (drawn, picture) in group.items():
                with self._collected(drawn):
                    compare_tiles(tile_set, stem, picture, masks[stem])
            compare_inference(tile_set, tree, group, is_cut)

    @contextlib.contextmanager
    def _collected(self, *members: Drawn) -> Iterator[None]:
        """Keep an error as a difference of these files, with what was drawn for them."""
        try:
            yield
        except Exception as error:
            files = ", ".join(f"{each.path.name} {each.facts}" for each in members[:3])
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            self.differences.append(f"seed {self.seed}, {len(members)} files: {files}\n  {reason}")


def compare_reader(drawn: Drawn, picture: Picture, rng: np.random.Generator) -> None:
    """Compare what ``open_scene`` reads, whole and by window."""
    with open_scene(drawn.path, RENDERINGS[drawn.rendering][0]) as raster:
        assert (raster.placement is not None) is drawn.is_placed, "place"
        assert raster.has_mask or picture.valid.all(), "has_mask"
        compare_raster(raster, picture)
        for _ in range(3):
            ends = (rng.integers(0, length + 3, 2) for length in raster.size)
            window = tuple(slice(int(min(pair)), int(max(pair))) for pair in ends)
            compare_raster(raster, picture, window)
            equal(raster.read_values(*window), picture.values[window], f"values of {window}")


def compare_raster(
    raster: Raster, picture: Picture, window: tuple[slice, slice] = (EVERYTHING, EVERYTHING)
) -> None:
    """Compare a window of an open raster."""
    assert raster.size == picture.valid.shape, f"size {raster.size}"
    equal(raster.read_rgb(*window), picture.rgb[window], f"RGB of {window}")
    equal(raster.read_mask(*window), picture.valid[window], f"mask of {window}")


def equal(found: np.ndarray, expected: np.ndarray, where: str) -> None:
    """Compare shape, type and pixels."""
    assert found.dtype == expected.dtype, f"{where}: {found.dtype}, not {expected.dtype}"
    np.testing.assert_array_equal(found, expected, where)


def prepare(tree: Path, is_cut: bool) -> TileSet:
    """Run ``prepare.py folder`` on the files of one rendering."""
    rendering, *_ = RENDERINGS[tree.name]
    (tree / "classes.json").write_text(json.dumps(CLASSES))
    command = ["--tree", tree, "--classes", tree / "classes.json", "--output", tree / "set"]
    command += ["--workers", 1]
    if rendering.bands:
        command += ["--bands", ",".join(map(str, rendering.bands))]
    if rendering.stretch:
        command.append(f"--stretch={stretch_text(rendering.stretch)}")
    if rendering.alpha_is_data:
        command.append("--alpha-is-data")
    if is_cut:
        command += ["--tile-size", 32, "--overlap", 9]
    parser = argparse.ArgumentParser()
    folder_command.add_arguments(parser.add_argument)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        folder_command.run(parser.parse_args([*map(str, command)]))
    return open_tile_set(tree / "set")


def compare_tiles(tile_set: TileSet, stem: str, picture: Picture, mask: np.ndarray) -> None:
    """Compare the tiles of an image: files, what generators see, and what training sees."""
    if not picture.valid.any() and stem not in tile_set.sources:
        return  # tiles without a pixel that holds data are left out
    label = np.where(picture.valid & (mask != IGNORED), mask, 255).astype(np.uint8)
    assert tile_set.sources[stem].size == mask.shape, "size of the source"
    is_seen = np.zeros(mask.shape, bool)
    order = tile_set.split("train")
    for tile in (tile for tile in tile_set.tiles.values() if tile.source == stem):
        rgb, valid, target = (each[tile.slices] for each in (picture.rgb, picture.valid, label))
        is_seen[tile.slices] = True
        equal(file_of(tile_set.image_path(tile.id)), rgb, "image file")
        equal(file_of(tile_set.target_path(tile.id)), target, "label file")
        equal(tile_set.read_image(tile.id), rgb, "image of generators")
        found = tile_set.read_valid(tile.id)
        assert (found is None) is bool(valid.all()), "valid file"
        equal(valid if found is None else found, valid, "valid")
        compare_samples(tile_set, order.index(tile.id), rgb, target)
    assert is_seen[picture.valid].all(), "pixels with data were left out"


def file_of(path: Path) -> np.ndarray:
    """The pixels of a prepared file."""
    with Image.open(path) as image:
        return np.asarray(image)


def compare_samples(tile_set: TileSet, index: int, rgb: np.ndarray, target: np.ndarray) -> None:
    """Compare a tile as it is read for evaluation, and padded as it is for training."""
    side = max(target.shape)
    crop = Geometry(crop_size_px=side, scale_range=(1.0, 1.0), dihedral=False)
    for geometry in (None, crop):
        dataset = TileDataset(
            tile_set=tile_set, tile_ids=tile_set.split("train"), stores=(), geometry=geometry
        )
        batch = dataset[SampleKey(index=index, seed=(0, 0, index))]
        image, labels = batch.image[0].movedim(0, -1).numpy(), batch.target[0].numpy()
        if geometry is None:
            equal(image, rgb, "image of evaluation")
            equal(labels, target, "target of evaluation")
            continue
        starts = [range(side - length + 1) for length in target.shape]
        parts = [Box(top, left, *target.shape).slices for top in starts[0] for left in starts[1]]
        padded = [np.full_like(labels, 255) for _ in parts]
        for part, each in zip(parts, padded, strict=True):
            each[part] = target
        assert any(
            (image[part] == rgb).all() and (labels == each).all()
            for part, each in zip(parts, padded, strict=True)
        ), "a sample of training"


def compare_inference(
    tile_set: TileSet, tree: Path, group: dict[str, tuple[Drawn, Picture]], is_cut: bool
) -> None:
    """Compare what ``infer.py`` reads, of files by the rendering of the set, and of the set."""
    rendering, _ = choose_rendering(Rendering.from_plain(tile_set.rendering))
    inputs = find_inputs(tree / "train" / "images", tree / "results", None)
    paths = sorted(image.path for image in inputs)
    assert paths == sorted(drawn.path for drawn, _ in group.values()), f"files {paths}"
    if not is_cut:
        inputs += find_inputs(tile_set.root, tree / "results", "train")
    for image in inputs:
        drawn, picture = group[image.stem]
        with open_input(image, AS_STORED if image.tile_id else rendering) as raster:
            compare_raster(raster, picture)
            assert (raster.placement is not None) is drawn.is_placed, drawn.path


def run_for(seconds: float, seed: int) -> Comparison:
    """Compare files of a seed until the time is over."""
    end = time.perf_counter() + seconds
    comparison, first = Comparison(seed), 0
    while time.perf_counter() < end:
        comparison.run(range(first, first + FILES_AT_A_TIME))
        first += FILES_AT_A_TIME
    return comparison


def test_every_way_in_shows_the_same_pixels():
    comparison = run_for(SECONDS, seed=0)
    assert comparison.num_files.total() >= FILES_AT_A_TIME
    assert not comparison.differences, "\n".join(comparison.differences)


def main() -> None:
    """Compare for a while, or one file, and print the numbers and the differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    parser.add_argument("index", type=int, nargs="?")
    args = parser.parse_args()
    if args.index is None:
        comparison = run_for(args.seconds, args.seed)
    else:
        comparison = Comparison(args.seed)
        comparison.run([args.index])
    for kind, number in comparison.num_files.most_common():
        print(f"{number:6} {kind}")
    print(*comparison.differences, sep="\n")
    print(f"{comparison.num_files.total()} files, {len(comparison.differences)} differences")


if __name__ == "__main__":
    main()
