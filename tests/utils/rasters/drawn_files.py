"""Raster files that a seeded generator draws, of every format and kind that users have.

Nothing is read back here: what a file shows is for its test to find out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.enums import ColorInterp

from tests.utils.rasters.raster_files import chunk, write_png_16, write_tiff
from utils.rasters.rendering import Rendering

T = TypeVar("T")
_DEEP = ((100.0, 3000.0),)
# By name: the rendering, whether it shows values of more than 8 bits, bands that a file must have.
RENDERINGS = {
    "plain": (Rendering(), False, 1),
    "bgr": (Rendering(bands=(3, 2, 1)), False, 3),
    "second": (Rendering(bands=(2,)), False, 2),
    "opaque": (Rendering(alpha_is_data=True), False, 1),
    "darker": (Rendering(stretch=((-30.0, 180.5),)), True, 1),
    "deep": (Rendering(stretch=_DEEP), True, 1),
    "deeper": (Rendering(bands=(2, 1, 3), stretch=((0, 65535.0), (5, 6), (-9, 4e3))), True, 3),
    "infrared": (Rendering(bands=(4, 1, 2), stretch=_DEEP), True, 4),
    "all deep": (Rendering(alpha_is_data=True, stretch=_DEEP), True, 1),
}
# Type and bits of a value, the more frequent ones repeated.
_DEPTHS = [("u1", 8)] * 6 + [("u1", 1), ("u1", 2), ("u1", 4), ("u2", 12), ("u2", 9)]
_DEPTHS += [("u2", 16), ("f4", 32)] * 3 + [("i2", 16)] * 2
_DEPTHS += [("i1", 8), ("u4", 32), ("i4", 32), ("f4", 16), ("f8", 64)]
_LOSSLESS = ["NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD", "LZMA", "LERC", "LERC_DEFLATE"]
_PLACE = {"transform": rasterio.Affine(0.3, 0, 252930, 0, -0.3, 5173152), "crs": "EPSG:32632"}
_WORLD = "0.5\n0.0\n0.0\n-0.5\n100.25\n199.75\n"


@dataclass(kw_only=True)
class Drawn:
    """A file and what was drawn for it.

    Attributes:
        path: the file.
        kind: its format, and who wrote it.
        facts: all that was drawn, for messages.
        by_pillow: Pillow decodes the file, else GDAL.
        values: ``(H, W, bands)`` as stored; None: the format does not keep them.
        valid: ``(H, W)``, what a mask of its own says; None: no such mask.
        no_data: value by a file beside one that Pillow decodes.
        bits: of a value.
        is_inverted: high values are dark.
        orientation: 1 to 8.
        is_placed: on the earth.
        rendering: name of one of ``RENDERINGS``.
    """

    path: Path
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    by_pillow: bool = False
    values: np.ndarray | None = None
    valid: np.ndarray | None = None
    no_data: float | None = None
    bits: int = 8
    is_inverted: bool = False
    orientation: int = 1
    is_placed: bool = False
    rendering: str = "plain"


class Pen:
    """Source of choices, which remembers them by name."""

    def __init__(self, seed: int, index: int) -> None:
        self.rng = np.random.default_rng((seed, index))
        self.facts: dict[str, Any] = {}
        sides = [*range(1, 20), 31, 33, 47, 64, 65, 70]
        self.size = self.pick("height", sides), self.pick("width", sides)

    def pick(self, name: str, options: Sequence[T]) -> T:
        chosen = options[int(self.rng.integers(len(options)))]
        self.facts[name] = chosen
        return chosen

    def chance(self, name: str, one_in: int) -> bool:
        return self.pick(name, [True, *[False] * (one_in - 1)])

    def values(self, bands: int, dtype: str, bits: int) -> np.ndarray:
        """``(H, W, bands)`` noise, which mostly lies in the stretches."""
        shape, rng = (*self.size, bands), self.rng
        if dtype[0] == "f":
            values = np.rint(rng.uniform(-500, 2000, shape)) / (1 if bits == 16 else 7)
            values[rng.random(shape) < 0.02] = rng.choice([np.inf, -np.inf, 1024])
            return values.astype(dtype)
        info = np.iinfo(dtype)
        top = (1 << bits) - 1 if dtype[0] == "u" else info.max
        few = self.pick("few values", [False, False, True])
        values = rng.integers(max(info.min, -500), min(3 if few else 5000, top) + 1, shape)
        values[rng.random(shape) < 0.05] = top
        return values.astype(dtype)

    def hole(self) -> np.ndarray:
        """``(H, W)`` bool: a rectangle and some specks; sometimes everything."""
        found = self.rng.random(self.size) < self.pick("specks", [0, 0, 0.02, 0.2])
        (top, left), (low, high) = (self.rng.integers(0, self.size) for _ in range(2))
        found[min(top, low) : max(top, low) + 1, min(left, high) : max(left, high) + 1] = True
        return found | self.chance("all in the hole", 20)


def draw(folder: Path, seed: int, index: int) -> Drawn:
    """Draw a file into ``folder/RENDERING/train/images``; the same for the same numbers."""
    pen = Pen(seed, index)
    frequent = ["TIFF by Pillow", "PNG", "JPEG", "VRT by GDAL"] * 2
    kind = pen.pick("kind", [*WRITERS, *["GTiff"] * 10, *frequent])
    drawn = Drawn(path=folder / f"{index:06d}", kind=kind, facts=pen.facts)
    WRITERS[kind](pen, drawn)
    return drawn


def _settle(pen: Pen, drawn: Drawn, suffix: str, bands: int, *, is_deep: bool) -> Path:
    """Draw a rendering that such a file can have, which decides its folder; return the path."""
    fitting = [
        name
        for name, (_, takes_deep, least) in RENDERINGS.items()
        if least <= bands and (takes_deep or not is_deep)
    ]
    drawn.rendering = pen.pick("rendering", fitting)
    folder = drawn.path.parent / drawn.rendering / "train" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    drawn.path = folder / f"{drawn.path.name}{suffix}"
    return drawn.path


def _put_no_data(pen: Pen, values: np.ndarray, bits: int) -> float | None:
    """Draw a no-data value and the pixels that have it, in all bands or, at some, in one."""
    kind = pen.pick("no data", [None, None, None, "low", "any", "top"])
    if kind is None:
        return None
    if values.dtype.kind == "f":
        tag = {"low": -9999.0 if bits > 16 else -1024.0, "any": np.nan, "top": 0.0}[kind]
    else:
        low = max(np.iinfo(values.dtype).min, -9999)
        tag = {"low": low, "any": values.flat[0], "top": values.max()}[kind]
    _put(pen, values, tag)
    return float(tag)


def _put(pen: Pen, values: np.ndarray, value: float) -> None:
    values[pen.hole()] = value
    for _ in range(3):
        values[tuple(pen.rng.integers(0, values.shape))] = value


def _colors(pen: Pen, bands: int, *, has_alpha: bool) -> list[ColorInterp] | None:
    """Draw the colours that a file names: complete in any order, in part, none; None: as it is."""
    kind = pen.pick("colors", [None, None, "permuted", "scattered", "partial", "none"])
    if kind is None or bands < 2:
        return None
    free = bands - has_alpha
    num_named = {"partial": 1, "none": 0}.get(kind, 3)
    named = [ColorInterp.red, ColorInterp.green, ColorInterp.blue][:num_named]
    found = [*named, *[ColorInterp.undefined] * bands][:free]
    moved = min(3, free) if kind == "permuted" else free
    found[:moved] = [found[i] for i in pen.rng.permutation(moved)]
    if has_alpha:
        found.insert(int(pen.rng.integers(bands)), ColorInterp.alpha)
    return found


def _compression(
    pen: Pen, dtype: str, bits: int, bands: int, *, is_palette: bool
) -> dict[str, Any]:
    is_whole = bits == 8 * np.dtype(dtype).itemsize
    options = _LOSSLESS if is_whole and dtype != "i1" else _LOSSLESS[:-2]
    if (bits, bands) == (1, 1):
        options = [*options, "CCITTFAX4"]
    if (dtype, bits) == ("u1", 8) and bands in (1, 3) and not is_palette:
        options = [*options, "JPEG"]
    compress = pen.pick("compress", options)
    if compress not in ("LZW", "DEFLATE", "ZSTD") or not is_whole:
        return {"compress": compress}
    of_type = 3 if dtype[0] == "f" else 2
    return {"compress": compress, "predictor": pen.pick("predictor", [1, of_type])}


def _layout(pen: Pen, *, is_jpeg: bool) -> dict[str, Any]:
    """Draw strips or tiles, the order of bytes and of bands."""
    options = {"interleave": "pixel" if is_jpeg else pen.pick("interleave", ["pixel", "band"])}
    if pen.chance("tiled", 2):
        sides = {f"block{side}size": pen.pick(f"tile {side}", [16, 32, 48]) for side in "xy"}
        options |= {"tiled": "YES", **sides}
    else:
        options["blockysize"] = 16 if is_jpeg else pen.pick("rows", [1, 3, 7, 11, 70])
    options["endianness"] = pen.pick("endianness", ["LITTLE", "LITTLE", "BIG"])
    options["bigtiff"] = pen.pick("bigtiff", ["NO", "NO", "YES"])
    return options | {"sparse_ok": pen.pick("sparse", ["FALSE", "TRUE"])}


def _photometric(pen: Pen, dtype: str, bits: int, bands: int) -> dict[str, Any]:
    known = ["MINISBLACK", "RGB", "RGB"] if bands > 2 else ["MINISBLACK", "MINISWHITE"]
    if bands == 1 and (dtype, bits) in [("u1", 1), ("u1", 2), ("u1", 4), ("u1", 8), ("u2", 16)]:
        known = [*known, "PALETTE"]
    options = {"photometric": pen.pick("photometric", known)}
    if options["photometric"] == "PALETTE":
        options["colormap"] = _palette(pen, 1 << bits)
    elif bands > (3 if options["photometric"] == "RGB" else 1) and bits >= 8:
        options["alpha"] = pen.pick("alpha", ["NO", "NO", "YES", "PREMULTIPLIED"])
    return options


def _palette(pen: Pen, num: int) -> dict[int, tuple[int, int, int, int]]:
    colors = pen.rng.integers(0, 256, (num, 3)).tolist()
    return {index: (*color, 255) for index, color in enumerate(colors)}


def write_geotiff(pen: Pen, drawn: Drawn) -> None:
    """A TIFF file as GDAL writes it."""
    dtype, drawn.bits = pen.pick("depth", _DEPTHS)
    bands = pen.pick("bands", [1, 1, 1, 2, 3, 3, 3, 3, 4, 4, 5, 8])
    options = _photometric(pen, dtype, drawn.bits, bands)
    is_palette = "colormap" in options
    options |= _compression(pen, dtype, drawn.bits, bands, is_palette=is_palette)
    is_jpeg = options["compress"] == "JPEG"
    if is_jpeg and options["photometric"] == "RGB":
        options["photometric"] = pen.pick("inks", ["RGB", "YCBCR"])
    options |= _layout(pen, is_jpeg=is_jpeg)
    if drawn.bits != 8 * np.dtype(dtype).itemsize:
        options["nbits"] = drawn.bits
    is_deep = not is_palette and (drawn.bits > 8 or dtype == "i1")
    suffix = pen.pick("suffix", [".tif", ".tif", ".TIFF"])
    path = _settle(pen, drawn, suffix, bands, is_deep=is_deep)
    values = pen.values(bands, dtype, drawn.bits)
    if dtype[0] == "f" and pen.chance("nan", 2):
        _put(pen, values, np.nan)
    has_alpha = options.get("alpha", "NO") != "NO"
    drawn.is_inverted = options["photometric"] == "MINISWHITE"
    keeps_colors = is_palette or is_jpeg or drawn.is_inverted
    colors = None if keeps_colors else _colors(pen, bands, has_alpha=has_alpha)
    if has_alpha:
        first_extra = 3 if options["photometric"] == "RGB" else 1
        values[pen.hole(), colors.index(ColorInterp.alpha) if colors else first_extra] = 0
    options["nodata"] = _put_no_data(pen, values, drawn.bits)
    drawn.orientation = pen.pick("orientation", [*range(1, 9)])
    if pen.chance("place inside", 4):
        options |= _PLACE
        drawn.is_placed = True
    write_tiff(path, values, orientation=drawn.orientation, **options)
    drawn.values = None if is_jpeg else values
    _add_colors_and_mask(pen, drawn, colors)
    _place_beside(pen, drawn, [".tfw", ".wld", ".TFW"])


def _add_colors_and_mask(pen: Pen, drawn: Drawn, colors: list[ColorInterp] | None) -> None:
    """Add to a TIFF file what GDAL writes after the pixels."""
    mask = pen.pick("mask", [None, None, None, "inside", "beside"])
    inside = "YES" if mask == "inside" else "NO"
    if colors is None and mask is None:
        return
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(drawn.path, "r+") as file:
        if colors is not None:
            file.colorinterp = colors
        if mask is not None:
            drawn.valid = ~pen.hole()
            file.write_mask(drawn.valid)


def _place_beside(pen: Pen, drawn: Drawn, suffixes: Sequence[str]) -> None:
    """Place some of the files that have no place yet, by a world file."""
    if not drawn.is_placed and pen.chance("place beside", 8):
        drawn.path.with_suffix(pen.pick("world file", suffixes)).write_text(_WORLD)
        drawn.is_placed = True


# Driver of GDAL -> suffix, types, numbers of bands, and the options of which one is drawn.
_COPIES: dict[str, tuple[str, list[str], list[int], list[dict[str, Any]]]] = {
    "JP2OpenJPEG": (
        ".jp2",
        ["u1", "u1", "u2", "i2"],
        [1, 3, 4],
        [{"quality": 100, "reversible": "YES", "blockysize": side} for side in (64, 1024)],
    ),
    "HFA": (".img", ["u1", "u1", "u2", "i2", "f4"], [1, 3, 4, 8], [{}, {"compressed": "YES"}]),
    "ENVI": (
        ".dat",
        ["u1", "u1", "u2", "i2", "f4"],
        [1, 3, 5],
        [{"interleave": each} for each in ("BSQ", "BIP", "BIL")],
    ),
    "VRT": (".vrt", ["u1", "u2", "f4"], [1, 1, 2, 3, 4, 6], [{}]),
    "PNG": (".png", ["u1"], [1], [{"nbits": bits} for bits in (1, 2, 4)]),
    "NITF": (".ntf", ["u1", "u2"], [1, 3, 4], [{}]),
    "PCIDSK": (".pix", ["u1", "u2", "f4"], [1, 3, 4], [{}]),
    "PNM": (".ppm", ["u1", "u2"], [3], [{}]),
    "EHdr": (".bil", ["u1", "u2", "i2"], [1], [{}]),
    "SGI": (".sgi", ["u1"], [1, 3, 4], [{}]),
    "ERS": (".ers", ["u1", "u2", "f4"], [1, 3], [{}]),
}
_WITH_NO_DATA = ("HFA", "ENVI", "VRT", "PCIDSK", "ERS")


def write_copy(pen: Pen, drawn: Drawn) -> None:
    """A file of another driver of GDAL, copied from a TIFF file."""
    driver = drawn.kind.partition(" ")[0]
    suffix, dtypes, all_bands, all_options = _COPIES[driver]
    dtype, bands = pen.pick("dtype", dtypes), pen.pick("bands", all_bands)
    options = dict(pen.pick("options", all_options))
    is_grey = (dtype, bands) == ("u1", 1)
    if driver == "HFA" and is_grey:
        options["nbits"] = pen.pick("bits", [1, 4, 8])
    drawn.bits = options.get("nbits", 8 * np.dtype(dtype).itemsize)
    base: dict[str, Any] = {"photometric": "RGB" if bands >= 3 else "MINISBLACK"}
    if driver in ("HFA", "PNG", "NITF") and is_grey and pen.chance("palette", 2):
        base = {"photometric": "PALETTE", "colormap": _palette(pen, 1 << drawn.bits)}
    is_short = driver == "VRT" and bands == 1 and dtype != "f4" and pen.chance("palette", 2)
    path = _settle(pen, drawn, suffix, bands, is_deep=drawn.bits > 8 and not is_short)
    values = pen.values(bands, dtype, drawn.bits)
    if driver in ("JP2OpenJPEG", "VRT", "SGI") and bands == 4 and pen.chance("alpha", 2):
        base["alpha"] = "YES"
        values[pen.hole(), 3] = 0
    if driver in _WITH_NO_DATA:
        base["nodata"] = _put_no_data(pen, values, drawn.bits)
    keeps_place = driver not in ("PNG", "PNM", "NITF")  # of which GDAL loses it in part
    if keeps_place and pen.chance("place inside", 4):
        base |= _PLACE
        drawn.is_placed = True
    source = path.parents[3] / "sources" / f"{path.stem}.tif"
    source.parent.mkdir(exist_ok=True)
    write_tiff(source, values, **base)
    drawn.values = values
    if driver == "VRT" and pen.chance("mask", 4):
        _add_colors_and_mask(pen, Drawn(path=source, kind=drawn.kind), None)
    rasterio.shutil.copy(source, path, driver=driver, strict=False, **options)
    if is_short:
        _add_short_palette(pen, path)
    if driver in ("HFA", "ENVI") and pen.chance("mask beside", 4):
        _write_mask_beside(pen, drawn)


def _add_short_palette(pen: Pen, path: Path) -> None:
    """Add colours of some values to a virtual raster, fewer than its type has."""
    entries = [
        f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="255"/>'
        for red, green, blue, _ in _palette(pen, pen.pick("entries", [2, 200, 300])).values()
    ]
    table = f"<ColorInterp>Palette</ColorInterp><ColorTable>{''.join(entries)}</ColorTable>"
    text = path.read_text()
    assert text.count("<ColorInterp>Gray</ColorInterp>") == 1
    path.write_text(text.replace("<ColorInterp>Gray</ColorInterp>", table))


def _write_mask_beside(pen: Pen, drawn: Drawn) -> None:
    """Write a ``.msk`` file, as GDAL does for any format."""
    drawn.valid, path = ~pen.hole(), drawn.path.with_name(f"{drawn.path.name}.msk")
    write_tiff(path, np.where(drawn.valid, 255, 0).astype(np.uint8)[..., None])
    with rasterio.open(path, "r+") as file:
        file.update_tags(INTERNAL_MASK_FLAGS_1="2")


# Format of Pillow -> modes, suffix, suffixes of world files, and the options of which one is drawn.
_PILLOW: dict[str, tuple[list[str], str, list[str], list[dict[str, Any]]]] = {
    "PNG": (["1", "L", "LA", "P", "RGB", "RGBA", "I;16"], ".png", [".pgw", ".pngw", ".wld"], [{}]),
    "JPEG": (
        ["L", "RGB", "RGB", "CMYK"],
        ".jpg",
        [".jgw", ".wld"],
        [{"quality": 90}, {"progressive": True}, {"subsampling": 0}],
    ),
    "WEBP": (["RGB", "RGBA"], ".webp", [".wpw"], [{"lossless": True, "exact": True}, {}]),
    "BMP": (["1", "L", "P", "RGB"], ".bmp", [".bpw"], [{}]),
    "GIF": (["P"], ".gif", [".gfw"], [{}, {"save_all": True}]),
    "TIFF": (
        ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr"],
        ".tif",
        [".tfw"],
        [
            {},
            *({"compression": f"tiff_{each}"} for each in ("lzw", "deflate")),
            {"big_tiff": True},
            {"save_all": True},
        ],
    ),
}
_DEEP_MODES = {"I;16": ("u2", 16), "I": ("i4", 32), "F": ("f4", 32)}
_BANDS_OF_MODE = {"LA": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "CMYK": 3, "RGBA": 4}


def write_by_pillow(pen: Pen, drawn: Drawn) -> None:
    """An image file as cameras and image editors write it."""
    form = drawn.kind.partition(" ")[0]
    modes, own_suffix, world_suffixes, all_options = _PILLOW[form]
    mode, options = pen.pick("mode", modes), dict(pen.pick("options", all_options))
    drawn.by_pillow = form != "TIFF" and mode != "I;16"
    _, drawn.bits = _DEEP_MODES.get(mode, ("", 1 if mode == "1" else 8))
    suffix = pen.pick("suffix", [own_suffix] * 12 + [".png", ".jpg", ".tif"])  # it may lie
    bands = _BANDS_OF_MODE.get(mode, 1)
    _settle(pen, drawn, suffix, bands, is_deep=mode in _DEEP_MODES)
    image = _picture(pen, mode)
    if options.pop("save_all", False):
        options |= {"save_all": True, "append_images": [_picture(pen, mode)]}
    if form == "PNG" and mode == "P":
        options["bits"] = drawn.facts["palette bits"]
    if form in ("PNG", "GIF") and mode in ("L", "P", "RGB") and pen.chance("transparent", 2):
        options["transparency"] = _transparency(pen, form, image)
    elif form in ("PNG", "JPEG", "BMP") and mode in ("L", "RGB") and pen.chance("no data", 4):
        _mark_no_data(pen, drawn, image)
    if form in ("PNG", "WEBP", "JPEG", "BMP", "GIF") and pen.chance("mask beside", 12):
        _write_mask_beside(pen, drawn)
    if form not in ("GIF", "BMP"):
        drawn.orientation = pen.pick("orientation", [*range(1, 9)])
        exif = Image.Exif()
        exif[274] = drawn.orientation
        options |= {"tiffinfo": {274: drawn.orientation}} if form == "TIFF" else {"exif": exif}
    image.save(drawn.path, format=form, **options)
    if suffix == own_suffix:
        _place_beside(pen, drawn, world_suffixes)


def _picture(pen: Pen, mode: str) -> Image.Image:
    if mode in _DEEP_MODES:
        return Image.fromarray(pen.values(1, *_DEEP_MODES[mode])[..., 0])
    if mode == "1":
        return Image.fromarray(pen.values(1, "u1", 1)[..., 0] != 0)
    if mode in ("P", "PA"):
        bits = pen.pick("palette bits", [1, 2, 4, 8])
        image = Image.fromarray(pen.values(1, "u1", bits)[..., 0]).convert("P")
        image.putpalette(pen.rng.integers(0, 256, 3 << bits).astype(np.uint8).tobytes())
        if mode == "PA":
            image.putalpha(Image.fromarray(pen.values(1, "u1", 8)[..., 0]))
        return image
    values = pen.values(4 if mode == "CMYK" else _BANDS_OF_MODE.get(mode, 1), "u1", 8)
    if mode in ("LA", "RGBA"):
        values[pen.hole(), -1] = 0
    if mode == "L":
        return Image.fromarray(values[..., 0])
    return Image.frombytes(mode, (values.shape[1], values.shape[0]), values.tobytes())


def _transparency(pen: Pen, form: str, image: Image.Image) -> int | tuple[int, ...] | bytes:
    """Draw the colour, or the entries of a palette, that are transparent."""
    if form == "PNG" and image.mode == "P":
        num = 1 << pen.facts["palette bits"]
        return bytes(pen.rng.choice([0, 1, 254, 255], num).tolist())
    return image.getpixel((0, 0))


def _mark_no_data(pen: Pen, drawn: Drawn, image: Image.Image) -> None:
    """Write beside a file the no-data value that it cannot hold itself, as GDAL does."""
    drawn.no_data = float(np.asarray(image).max())
    band = f"<NoDataValue>{drawn.no_data}</NoDataValue>"
    bands = [f'<PAMRasterBand band="{i}">{band}</PAMRasterBand>' for i in (1, 2, 3)]
    text = f"<PAMDataset>{''.join(bands[: len(image.getbands())])}</PAMDataset>"
    drawn.path.with_name(f"{drawn.path.name}.aux.xml").write_text(text)


def write_deep_png(pen: Pen, drawn: Drawn) -> None:
    """A PNG file of 16 bits, as Pillow does not write them, with EXIF data."""
    bands, drawn.bits = pen.pick("bands", [1, 2, 3, 3, 4]), 16
    path = _settle(pen, drawn, ".png", bands, is_deep=True)
    drawn.values = pen.values(bands, "u2", 16)
    if bands in (2, 4):
        drawn.values[pen.hole(), -1] = 0
    drawn.orientation = pen.pick("orientation", [*range(1, 9)])
    exif = Image.Exif()
    exif[274] = drawn.orientation
    write_png_16(path, drawn.values)
    content, text = path.read_bytes(), exif.tobytes().removeprefix(b"Exif\0\0")
    more = chunk(b"eXIf", text)
    if bands in (1, 3) and pen.chance("transparent", 3):
        more += chunk(b"tRNS", drawn.values[0, 0].astype(">u2").tobytes())
    path.write_bytes(content[:33] + more + content[33:])
    _place_beside(pen, drawn, [".pgw"])


WRITERS: dict[str, Callable[[Pen, Drawn], None]] = {
    "GTiff": write_geotiff,
    **dict.fromkeys(["TIFF by Pillow", "PNG", "JPEG", "WEBP", "BMP", "GIF"], write_by_pillow),
    "PNG of 16 bits": write_deep_png,
    **dict.fromkeys([f"{driver} by GDAL" for driver in _COPIES], write_copy),
}
