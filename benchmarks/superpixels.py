"""Our SLIC beside scikit-image's, alternating in one process: one JSON line.

::

    python benchmarks/superpixels.py [--quick]

scikit-image is a benchmark-only extra; without it, only our side is measured. ``quality_ratio``
compares the root mean square distance between the image and its segments' mean colours, at about
the same number of segments (above 1: ours is closer to the image).
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs.schema import SuperpixelsConfig
from datasets.preparation.synthetic import draw_scene
from models.structure.superpixels import Superpixels

SIZE_PX = 512
Segmenter = Callable[[np.ndarray], np.ndarray]


def peer(num_segments: int) -> Segmenter | None:
    """Return scikit-image's SLIC with the settings nearest to ours, None if not installed."""
    try:
        from skimage.segmentation import slic
    except ImportError:
        return None
    return lambda image: slic(
        image, n_segments=num_segments, compactness=10, max_num_iter=5, start_label=1
    )


def measure(segmenters: list[Segmenter], image: np.ndarray, rounds: int) -> list[list[float]]:
    """Return the seconds of every segmenter in every round, alternating."""
    seconds: list[list[float]] = [[] for _ in segmenters]
    for _ in range(rounds + 1):
        for times, segment in zip(seconds, segmenters, strict=True):
            start = time.perf_counter()
            segment(image)
            times.append(time.perf_counter() - start)
    return [times[1:] for times in seconds]  # the first round warms up


def color_error(image: np.ndarray, ids: np.ndarray) -> float:
    """Return the RMS distance of the pixels from their segments' mean colours, 0..255."""
    counts = np.maximum(np.bincount(ids.ravel()), 1)
    sums = [np.bincount(ids.ravel(), image[..., channel].ravel()) for channel in range(3)]
    means = np.stack([total / counts for total in sums], -1)
    return float(np.sqrt(((image - means[ids]) ** 2).mean()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 30")
    rounds = 5 if parser.parse_args().quick else 30
    image = draw_scene(0, SIZE_PX).image
    ours = Superpixels(SuperpixelsConfig(), torch.device("cpu")).generate
    ids = ours(image)
    theirs = peer(int(ids.max()))
    seconds = measure([ours] if theirs is None else [ours, theirs], image, rounds)
    line: dict[str, object] = {
        "name": f"superpixels {SIZE_PX}x{SIZE_PX}",
        "ours": statistics.median(seconds[0]),
        "peer": None,
        "unit": "s",
        "ratio": None,
        "num_segments": int(ids.max()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    if theirs is not None:
        line["peer"] = statistics.median(seconds[1])
        line["ratio"] = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        line["quality_ratio"] = color_error(image, theirs(image)) / color_error(image, ids)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
