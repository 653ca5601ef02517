"""Batch inference: skips finished images, distributes the rest over ranks, collects failures."""

import errno
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from configs.schema import IGNORE_INDEX
from utils.distributed import DistContext
from utils.errors import DataError, UserError
from utils.evaluation.evaluate import classes_of
from utils.files import remove_partial_of, write_json, write_png
from utils.inference.inputs import Input, open_input
from utils.inference.probabilities import probabilities_of
from utils.inference.progress import DoneMarker, input_state, is_done, read_marker
from utils.inference.remarks import Remarks, remaining_lines
from utils.inference.results import (
    OutputSettings,
    RowFile,
    check_results,
    strips_of,
    write_results,
)
from utils.inference.segment import Segmenter, confidence_of
from utils.rasters.reading import Raster
from utils.rasters.rendering import AS_STORED, Rendering
from utils.rasters.sources import count_pixels
from utils.reports.inference_report import NUM_PICTURES, write_inference_report
from utils.reports.pages import jpeg_base64
from utils.threads import Stopwatch
from utils.visualization.panels import legend

SHARED_FROM_PX = 64_000_000  # all ranks share the rows of a larger image
_BAR_FROM_PX = 16_000_000  # a larger image has its own progress bar
# Temporary maps: values of logits (C, rows, W), and the value of pixels without data.
_VALUES_OF: dict[str, Callable[[Tensor], np.ndarray]] = {
    "index": lambda logits: classes_of(logits).numpy(),
    "confidence": confidence_of,
    "probabilities": probabilities_of,
}
_NO_DATA = {"index": IGNORE_INDEX, "confidence": 0, "probabilities": 0}


def infer_images(
    segmenter: Segmenter,
    images: Sequence[Input],
    output: OutputSettings,
    dist: DistContext,
    *,
    digest: str,
    rendering: Rendering = AS_STORED,
    overwrite: bool = False,
) -> dict[Path, tuple[int, int]]:
    """Segment images; continue after broken ones and report them at the end. Call on all ranks.

    Args:
        segmenter: the network.
        images: to segment. Ranks take whole images in turn and share the rows of large ones.
        output: results to write.
        dist: this process.
        digest: of everything that decides the results; finished images of the same digest are
            skipped.
        rendering: of stored values as RGB; tiles of a prepared set are RGB.
        overwrite: repeat finished images.

    Returns:
        On the main rank, height and width of the images by the name of their results.

    Raises:
        DataError: some images could not be segmented.
    """
    start = time.perf_counter()
    whole: list[Input] = []
    shared: list[Input] = []
    if dist.is_main:  # the other ranks wait at the gather
        for image in _begin(segmenter, output, images, "" if overwrite else digest):
            (shared if dist.world_size > 1 and _is_large(image) else whole).append(image)
    whole, shared = dist.gather((whole, shared))[0]
    rank = _RankInference(segmenter, output, digest, rendering, Remarks(is_shown=dist.is_main))
    alone = replace(dist, rank=0, world_size=1)
    own = whole[dist.rank :: dist.world_size]
    for image in tqdm(own, desc="infer", unit="image", disable=not dist.is_main):
        rank.segment(image, alone)
    for number, image in enumerate(shared):
        rank.segment(image, dist, writer=number % dist.world_size)
    # Ranks that share an image may fail at the same block: one sentence an image.
    found = {result: text for part in dist.gather(rank.failures) for result, text in part.items()}
    failures, markers = sorted(found.values()), {}
    remarks = dist.gather(rank.remarks)
    if dist.is_main:
        for line in remaining_lines(remarks):
            print(line)
        markers = _read_markers(output, images)
        skipped = len(images) - len(whole) - len(shared)
        _write_summary(output, [*markers.values()], failures, len(images), skipped)
        print(_throughput(segmenter.watch, rank.num_pixels, time.perf_counter() - start))
    if failures:
        head = f"{len(failures)} of {len(images)} images could not be segmented:"
        raise DataError("\n  ".join([head, *failures]))
    return {result: marker.size for result, marker in markers.items()}


def _begin(
    segmenter: Segmenter, output: OutputSettings, images: Sequence[Input], digest: str
) -> list[Input]:
    """Return the images without results of a digest; remove what a killed run left of them."""
    pending = [
        image for image in images if not is_done(output, image, segmenter.digest_of(image, digest))
    ]
    _remove_leftovers(output, pending)
    return pending


def _remove_leftovers(output: OutputSettings, images: Sequence[Input]) -> None:
    """Remove the temporary files that a killed run left of some images and of its summary."""
    paths = [output.folder / name for name in ("legend.png", "index.html", "areas.csv")]
    prefixes = []
    stores = [folder for folder in (output.folder / "maps").glob("*") if folder.is_dir()]
    for image in images:
        output.remove_scratch(image.result)
        paths.append(output.marker(image.result))
        paths += output.files(image.result)
        prefixes += [store / f"{image.result.with_suffix('')}_y" for store in stores]
    remove_partial_of(paths, prefixes)


def _is_large(image: Input) -> bool:
    """Return True for an image whose rows the ranks share."""
    try:
        return count_pixels(image.path) > SHARED_FROM_PX
    except UserError:  # reported by the rank that tries to segment it
        return False


@dataclass
class _RankInference:
    """The part of a run that one rank does.

    Attributes:
        failures: a sentence for each image that could not be segmented, by its result.
        num_pixels: number of pixels predicted by this rank.
    """

    segmenter: Segmenter
    output: OutputSettings
    digest: str
    rendering: Rendering
    remarks: Remarks
    failures: dict[Path, str] = field(default_factory=dict)
    num_pixels: int = 0

    def segment(self, image: Input, group: DistContext, writer: int = 0) -> None:
        """Segment an image. Call on all ranks of a group, which share its rows; one writes."""
        output, is_writer = self.output, group.rank == writer
        if is_writer:  # results are replaced one by one
            output.marker(image.result).unlink(missing_ok=True)
        try:
            with ExitStack() as stack:
                with self._failure_collected(image):
                    scene = stack.enter_context(open_input(image, self.rendering))
                    self._inspect(image, scene)
                    maps = output.scratch(image.result, scene.size[1])
                    parts = self.segmenter.split_rows(scene.size, group.world_size)
                    if group.rank < len(parts):
                        self._predict(image, scene, maps, parts[group.rank])
                # All ranks meet here, also those that failed.
                if any(group.gather(image.result in self.failures)) or not is_writer:
                    return
                with self._failure_collected(image), self.segmenter.watch.time("write"):
                    self._write(image, scene, maps)
        finally:
            if is_writer:
                output.remove_scratch(image.result)

    def _inspect(self, image: Input, scene: Raster) -> None:
        """Refuse what cannot be read or written, and remember what a user should know."""
        check_results(self.output, scene)
        scene.read_rgb(slice(0), slice(0))
        if (sentence := scene.stretch_warning()) is not None:
            self.remarks.warn(image.path, sentence)
        if scene.assumes_bands:
            self.remarks.add("bands", image.path)
        if scene.has_busy_alpha():
            self.remarks.add("alpha", image.path)

    def _predict(
        self, image: Input, scene: Raster, maps: Mapping[str, RowFile], part: slice
    ) -> None:
        """Predict some rows of an image."""
        num_rows = part.stop - part.start
        self.num_pixels += num_rows * scene.size[1]
        hidden = not self.remarks.is_shown or math.prod(scene.size) < _BAR_FROM_PX
        bar = tqdm(desc=image.path.name, total=num_rows, unit="row", leave=False, disable=hidden)
        with bar, self.segmenter.watch.time("predict"):
            read_mask = scene.read_mask if scene.has_mask else None
            done = part.start
            for rows, logits in self.segmenter.strips(
                image, scene.size, scene.read_rgb, part, read_mask
            ):
                self._keep_no_data(scene, maps, slice(done, rows.start))
                self._keep(scene, maps, rows, logits)
                del logits  # not held while the next strip is predicted
                bar.update(rows.stop - done)
                done = rows.stop
            self._keep_no_data(scene, maps, slice(done, part.stop))

    def _keep(
        self, scene: Raster, maps: Mapping[str, RowFile], rows: slice, logits: Tensor
    ) -> None:
        """Write a strip of predictions to the temporary maps."""
        is_invalid = ~scene.read_mask(rows, slice(0, scene.size[1])) if scene.has_mask else None
        for kind in self._kept:
            values = _VALUES_OF[kind](logits)
            if is_invalid is not None:
                values[..., is_invalid] = _NO_DATA[kind]
            maps[kind].write(rows.start, values)

    def _keep_no_data(self, scene: Raster, maps: Mapping[str, RowFile], rows: slice) -> None:
        """Write rows of which no pixel was predicted to the temporary maps."""
        width = scene.size[1]
        for strip in strips_of((rows.stop - rows.start, width)):
            for kind in self._kept:
                values = np.full((strip.stop - strip.start, width), _NO_DATA[kind], np.uint8)
                maps[kind].write(rows.start + strip.start, values)

    @property
    def _kept(self) -> tuple[str, ...]:
        """Return the kinds of temporary maps that the results are written from."""
        kinds = {"index", *self.output.kinds}
        if "polygons" in kinds:
            kinds.add("confidence")
        return tuple(kind for kind in _NO_DATA if kind in kinds)

    def _write(self, image: Input, scene: Raster, maps: Mapping[str, RowFile]) -> None:
        """Write the results of an image, then its done marker."""
        written = write_results(self.output, image.result, scene, maps)
        if not any(written.pixels):
            self.remarks.add("empty", image.path)
        if (polygons := written.polygons) is not None:
            self.remarks.num_dropped += polygons.num_dropped
            if polygons.are_pixels:
                self.remarks.add("pixels", image.path)
        place = scene.placement
        marker = DoneMarker(
            image=str(image.path),
            file=input_state(image),
            digest=self.segmenter.digest_of(image, self.digest),
            result=str(image.result),
            kinds=self.output.kinds,
            size=scene.size,
            pixels=written.pixels,
            pixel_area_m2=None if place is None else place.pixel_area_m2(),
            thumbnail=jpeg_base64(written.thumbnail),
        )
        write_json(self.output.marker(image.result), asdict(marker))

    @contextmanager
    def _failure_collected(self, image: Input) -> Iterator[None]:
        """Collect the errors of an image; those of the system, such as a full disk, are raised."""
        try:
            yield
        except UserError as error:
            self.failures[image.result] = str(error)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            sentence = "the names of its results would be too long; shorten its name"
            self.failures[image.result] = f"{image.path}: {sentence}"


def _read_markers(output: OutputSettings, images: Sequence[Input]) -> dict[Path, DoneMarker]:
    """Return the markers of finished images by result, without most of the thumbnails."""
    markers: dict[Path, DoneMarker] = {}
    for image in images:
        if (marker := read_marker(output, image.result)) is not None:
            shown = len(markers) < NUM_PICTURES
            markers[image.result] = marker if shown else replace(marker, thumbnail="")
    return markers


def _write_summary(
    output: OutputSettings,
    markers: Sequence[DoneMarker],
    failures: Sequence[str],
    num_images: int,
    num_skipped: int,
) -> None:
    """Write the legend and the page of a run, and report where they are."""
    folder, classes, palette = output.folder, output.classes, output.palette
    write_png(folder / "legend.png", legend(classes, palette, 400))
    write_inference_report(folder, markers, classes, palette, failures)
    skipped = f" ({num_skipped} of them before)" if num_skipped else ""
    print(
        f"{num_images - len(failures)} of {num_images} images segmented{skipped}; results in "
        f"{folder}, overview in {folder / 'index.html'}"
    )


def _throughput(watch: Stopwatch, num_pixels: int, seconds: float) -> str:
    """Return this rank's speed, and the seconds of each stage; reading and maps run in a thread."""
    spent = watch.seconds
    stages = {
        "predicting": spent["predict"] - spent["wait"],
        "waiting for chunks": spent["wait"],
        "reading": spent["read"],
        "structure maps": spent["structure"],
        "writing": spent["write"],
    }
    listed = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    megapixels = num_pixels / 1e6
    return (
        f"{megapixels:.1f} megapixels, {megapixels / max(seconds, 1e-9):.2f} a second; {listed} s"
    )
