"""Input images of infer.py: files, folders and patterns, or a split of a prepared data set."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path

import numpy as np

from datasets.rasters import open_raster
from datasets.tile_set import Tile, TileSet, open_tile_set, valid_path
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import list_content, list_images, passed_over_line
from utils.rasters.placement import Placement, placement_of
from utils.rasters.reading import Raster, open_scene
from utils.rasters.rendering import AS_STORED, Range, Rendering, stretch_text
from utils.rasters.sources import GdalSource, PillowSource, open_source

# Of images whose results are PNG files; those of geodata formats are TIFF files.
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".sgi")


@dataclass(frozen=True, kw_only=True)
class Input:
    """An image to segment."""

    path: Path
    result: Path  # name of its results, relative to the output folder, .tif or .png
    stem: str  # name of the image without folder and suffix
    tile_id: str | None = None  # in its prepared data set
    placement: Placement | None = None  # of the tile
    valid: Path | None = None  # file of the tile's pixels that hold data; None: all do


class _TileRaster(Raster):
    """A prepared tile: RGB as it is stored, with the place and the validity that its set records.

    Args:
        source: its open file.
        image: the tile.
    """

    def __init__(self, source: GdalSource | PillowSource, image: Input) -> None:
        super().__init__(image.path, source, AS_STORED)
        self.placement, self.has_mask = image.placement, image.valid is not None
        self._valid = None if image.valid is None else open_raster(image.valid, "8-bit")

    def read_mask(self, rows: slice, columns: slice) -> np.ndarray:
        """Read which pixels of a window hold data, ``(h, w)`` bool."""
        if self._valid is None:
            return super().read_mask(rows, columns)
        return self._valid[rows, columns] != 0


def choose_rendering(
    trained: Rendering,
    *,
    bands: tuple[int, ...] = (),
    stretch: tuple[Range, ...] = (),
    alpha_is_data: bool = False,
) -> tuple[Rendering, str | None]:
    """Return the rendering of images, and a line that tells what it has of the training set.

    Args:
        trained: of the training set, which holds for all that is not given.
        bands: see ``Rendering``.
        stretch: likewise.
        alpha_is_data: likewise.
    """
    parts = []
    if trained.bands and not bands:
        parts.append(f"the bands {','.join(map(str, trained.bands))}")
    if trained.stretch and not stretch:
        parts.append(f"the stretch {stretch_text(trained.stretch)}")
    if trained.alpha_is_data and not alpha_is_data:
        parts.append("alpha as data")
    rendering = Rendering(
        bands=bands or trained.bands,
        stretch=stretch or trained.stretch,
        alpha_is_data=alpha_is_data or trained.alpha_is_data,
    )
    line = f"images are read with {' and '.join(parts)}, as in the training set" if parts else None
    return rendering, line


@contextmanager
def open_input(image: Input, rendering: Rendering) -> Iterator[Raster]:
    """Open an image for reading by window.

    Args:
        image: a file, read by the rendering, or a tile of a prepared set, which is RGB already.
        rendering: of stored values as RGB.

    Raises:
        MissingDataError, DataError: as ``utils.rasters.reading.open_scene``.
    """
    if image.tile_id is None:
        with open_scene(image.path, rendering) as scene:
            yield scene
    else:
        with open_source(image.path) as source:
            yield _TileRaster(source, image)


def find_inputs(
    source: str | Path, output: Path, split: str | None, *, png: bool = False
) -> list[Input]:
    """Find the images to segment.

    Args:
        source: an image file, a folder, which is searched recursively, or a pattern such as
            ``photos/**/*.jpg``; with ``split`` a prepared data set.
        output: folder of the results; images in it are skipped.
        split: of the data set.
        png: write PNG results for TIFF files as well.

    Raises:
        MissingDataError: no image, no data set, no such split.
        ConfigError: a prepared data set without a split.
        DataError: the images of the split were cut into tiles.
    """
    if split is not None:
        return _split_inputs(open_tile_set(Path(source)), split, png=png)
    folder = output.resolve()
    found = [each for each in _find(str(source)) if folder not in each[0].resolve().parents]
    if not found:
        raise MissingDataError(f"{source} holds no image outside the folder of results, {output}")
    results = _results([name for _, name in found], png)
    return [Input(path=path, result=results[name], stem=path.stem) for path, name in found]


def _results(names: Sequence[Path], png: bool) -> dict[Path, Path]:
    """Return the name of the results of every image, each a different one.

    Images that would have the same results keep their suffix (``a.jpg.png``, ``a.tif.tif``).
    """
    # A stem is taken by images of that stem, and by one of that name: a.jpg beside a.jpg.png.
    taken = Counter(name.with_suffix("") for name in names) + Counter(names)
    results = {}
    for name in names:
        stem = name.with_suffix("")
        suffix = ".png" if png or name.suffix.lower() in _PICTURES else ".tif"
        results[name] = Path(f"{name if taken[stem] > 1 else stem}{suffix}")
    return results


def _split_inputs(tile_set: TileSet, split: str, *, png: bool) -> list[Input]:
    """Return the images of a split, each of which must be stored as one tile."""
    tiles = [tile_set.tiles[tile_id] for tile_id in tile_set.split(split)]
    count = Counter(tile.source for tile in tile_set.tiles.values())
    cut = [
        tile
        for tile in tiles
        if count[tile.source] > 1 or tile.slices != tile_set.sources[tile.source].box.slices
    ]
    if cut:
        raise DataError(
            f"the images of the split '{split}' of {tile_set.root} were cut into tiles (first: "
            f"'{cut[0].id}'); prepare the data set with --keep-whole {split}"
        )
    return [_tile_input(tile_set, tile, png=png) for tile in tiles]


def _tile_input(tile_set: TileSet, tile: Tile, *, png: bool) -> Input:
    facts, valid = tile_set.sources[tile.source], valid_path(tile_set.root, tile.id)
    placement = None
    if facts.transform is not None:
        placement = placement_of(facts.crs, facts.transform, tile)
    suffix = ".png" if placement is None or png else ".tif"
    return Input(
        path=tile_set.image_path(tile.id),
        result=Path(f"{tile.source}{suffix}"),
        stem=tile.source,
        tile_id=tile.id,
        placement=placement,
        valid=valid if valid.is_file() else None,
    )


def passed_over(source: str | Path, output: Path) -> str | None:
    """Return a line that counts the files of a folder that are no images; None without any.

    Args:
        source: an image file, a folder or a pattern.
        output: folder of the results; files in it do not count.
    """
    if not Path(source).is_dir():
        return None
    folder, files = output.resolve(), list_content(Path(source)).passed_over
    others = [file for file in files if folder not in file.resolve().parents]
    return passed_over_line(Path(source), others)


def _find(source: str) -> list[tuple[Path, Path]]:
    """Find the images of one source, sorted, each with its path relative to the source."""
    path = Path(source)
    if (path / "dataset.json").is_file():
        raise ConfigError(f"{path} is a prepared data set; name one of its splits: --split test")
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        return [(found, found.relative_to(path)) for found in list_images(path)]
    if not has_magic(source):
        raise MissingDataError(f"--input {path} does not exist")
    folder = Path(*takewhile(lambda part: not has_magic(part), path.parts))
    found = sorted(file for file in folder.glob(str(path.relative_to(folder))) if file.is_file())
    files = [(file, file.relative_to(folder)) for file in found]
    visible = [each for each in files if not any(part[0] == "." for part in each[1].parts)]
    if not visible:
        raise MissingDataError(f"no file matches --input {source}")
    return visible


def submission_names(inputs: Sequence[Input]) -> dict[str, Path]:
    """Return the results by their names in a submission, ``STEM.png`` without folders.

    Raises:
        DataError: two images would have the same name.
    """
    owners: dict[str, Input] = {}
    for image in inputs:
        name = f"{image.stem}.png"
        if (owner := owners.setdefault(name, image)) is not image:
            raise DataError(
                f"{owner.path} and {image.path} would both be {name} in the submission; "
                "rename or remove one of them"
            )
    return {name: image.result for name, image in owners.items()}
