"""Stretch of values to 8 bits, found from the training images (``--stretch auto``)."""

from collections.abc import Sequence

import numpy as np

from datasets.preparation.archives import in_threads
from datasets.preparation.pipeline import Source
from utils.errors import DataError
from utils.rasters.rendering import Range, Rendering

PERCENTILES = (2.0, 98.0)  # of each band, which become 0 and 255
_TOTAL_PX = 1 << 24  # pixels sampled in all images together, about
_LEAST_PX = 1 << 14  # ... and in each
_MOST_SOURCES = _TOTAL_PX // _LEAST_PX  # of more, some are left out, evenly


def auto_stretch(
    sources: Sequence[Source], rendering: Rendering, num_workers: int
) -> tuple[Range, ...]:
    """Return the percentiles 2 and 98 of each band, over a sample of the training images.

    Args:
        sources: those of the training split.
        rendering: names the bands.
        num_workers: number of images read at a time.

    Raises:
        MissingDataError, DataError: an image cannot be read, the images differ in their number of
            bands, show a palette, or a band has one value only or none.
    """
    sources = sources[:: -(-len(sources) // _MOST_SOURCES)]
    num_pixels = max(_LEAST_PX, _TOTAL_PX // len(sources))

    def sample(source: Source) -> np.ndarray:
        with source.image.open_image(rendering) as image:
            if image.palette is not None:
                raise DataError(f"{source.image.name} holds colours; leave out --stretch")
            return image.sample(num_pixels, image.rgb_bands, source.box)

    samples = in_threads(sample, sources, "stretch", num_workers)
    by_bands = {values.shape[1]: source for source, values in zip(sources, samples, strict=True)}
    if len(by_bands) > 1:
        one, other = (source.image.name for source in [*by_bands.values()][:2])
        raise DataError(f"{one} and {other} differ in their number of bands; name one with --bands")
    return tuple(map(_ends, np.concatenate(samples).T))


def _ends(band: np.ndarray) -> Range:
    values = band[np.isfinite(band)].astype(np.float64)
    low, high = np.percentile(values, PERCENTILES) if len(values) else (np.nan, np.nan)
    if not low < high:
        found = f"hardly any value but {low:g}" if len(values) else "no finite value"
        raise DataError(
            f"a band of the training images has {found}, so there is no --stretch auto; give "
            "--stretch LOW,HIGH"
        )
    return float(low), float(high)
