"""A run over images: which are open, who does them, what is written, what is told at the end."""

import errno
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from utils.distributed import DistContext
from utils.errors import DataError, UserError
from utils.evaluation.evaluate import classes_of
from utils.files import write_png
from utils.inference.progress import (
    Record,
    drop_record,
    is_done,
    read_record,
    state_of,
    write_record,
)
from utils.inference.results import write_results
from utils.inference.segment import Read, confidence_of
from utils.rasters.row_file import RowFile
from utils.rasters.scene import Scene, count_pixels, open_scene
from utils.reports.html import jpeg_base64
from utils.reports.inference_page import NUM_PICTURES, write_inference_page
from utils.threads import Stopwatch
from utils.visualization.charts import legend
from utils.visualization.colors import Color

SHARED_FROM_PX = 64_000_000  # all ranks share the rows of an image that is larger
_BAR_FROM_PX = 16_000_000  # a larger image has a bar of its own


class Picture(Protocol):
    """What is needed of an image (``utils.inference.inputs.Input``)."""

    path: Path
    result: Path  # name of its results


class Segmenter(Protocol):
    """What is needed of ``infer.Segmenter``."""

    watch: Stopwatch

    def shares(self, size: tuple[int, int], number: int) -> list[slice]:
        """Rows of an image for each of some processes."""

    def strips(
        self, image: Any, size: tuple[int, int], read: Read, part: slice | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits of an image from the top down."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of every image."""

    output: Path  # folder of all results
    kinds: tuple[str, ...]  # of ``utils.inference.results.KINDS``
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    made_by: str  # digest of all that decides how results come out
    stretch: tuple[float, float] | None = None  # values of a channel that become 0 and 255
    overwrite: bool = False  # repeat what is done


def infer_images(
    segmenter: Segmenter, images: Sequence[Any], wanted: Wanted, dist: DistContext
) -> dict[Path, tuple[int, int]]:
    """Segment images; go on after broken ones, and name them at the end. Call on all ranks.

    Args:
        segmenter: the network.
        images: see ``Picture``.
        wanted: of each of them.
        dist: this process. Ranks take images in turn, and share the rows of large ones.

    Returns:
        On the main rank, height and width of the images by the name of their results.

    Raises:
        DataError: some images could not be segmented.
    """
    run, start = _Run(segmenter, wanted, dist), time.perf_counter()
    todo: list[Any] = []
    if dist.is_main:  # the others wait below
        for leftover in wanted.output.rglob(".*.partial"):
            leftover.unlink()
        todo = [image for image in images if not run.is_done(image)]
    todo = dist.gather(todo)[0]
    whole, shared = run.sort(todo)
    own = whole[dist.rank :: dist.world_size]
    for image in tqdm(own, desc="infer", unit="image", disable=not dist.is_main):
        run.segment(image)
    for number, image in enumerate(shared):
        run.segment_share(image, writer=number % dist.world_size)
    failures = sorted(failure for part in dist.gather(run.failures) for failure in part)
    records = _records(wanted.output, images) if dist.is_main else {}
    if dist.is_main:
        write_png(wanted.output / "legend.png", legend(wanted.classes, wanted.palette, 400))
        write_inference_page(
            wanted.output, [*records.values()], wanted.classes, wanted.palette, failures
        )
        num_done = len(images) - len(todo)
        before = f" ({num_done} of them before)" if num_done else ""
        print(
            f"{len(images) - len(failures)} of {len(images)} images segmented{before}; results in "
            f"{wanted.output}, to look at in {wanted.output / 'index.html'}"
        )
        print(_throughput(segmenter.watch, run.num_pixels, time.perf_counter() - start))
    if failures:
        head = f"{len(failures)} of {len(images)} images could not be segmented:"
        raise DataError("\n  ".join([head, *failures]))
    return {result: record.size for result, record in records.items()}


def _records(output: Path, images: Sequence[Picture]) -> dict[Path, Record]:
    """What is known of the images that are done, by their results; few of them with a picture."""
    records: dict[Path, Record] = {}
    for image in images:
        if (record := read_record(output, image.result)) is not None:
            small = record if len(records) < NUM_PICTURES else replace(record, thumbnail="")
            records[image.result] = small
    return records


class _Run:
    def __init__(self, segmenter: Segmenter, wanted: Wanted, dist: DistContext) -> None:
        self._segmenter, self._wanted, self._dist = segmenter, wanted, dist
        self.failures: list[str] = []
        self.num_pixels = 0  # that this rank predicted

    def is_done(self, image: Picture) -> bool:
        """Whether all is there that is wanted of an image."""
        wanted = self._wanted
        done = is_done(wanted.output, image.path, image.result, wanted.made_by, wanted.kinds)
        return done and not wanted.overwrite

    def sort(self, images: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
        """Images that one rank does, and those that all of them share."""
        if self._dist.world_size == 1:
            return [*images], []
        shared = []
        for image in images[self._dist.rank :: self._dist.world_size]:
            try:
                if count_pixels(image.path) > SHARED_FROM_PX:
                    shared.append(image)
            except UserError:  # told by the rank that tries to segment it
                continue
        all_shared = {i.result for part in self._dist.gather(shared) for i in part}
        return (
            [image for image in images if image.result not in all_shared],
            [image for image in images if image.result in all_shared],
        )

    def segment(self, image: Picture) -> None:
        """Segment an image on this rank."""
        drop_record(self._wanted.output, image.result)
        with self._failing(image), self._open(image) as scene:
            try:
                self._predict(image, scene, None)
                self._write(image, scene)
            finally:
                self._forget(image)

    def segment_share(self, image: Picture, writer: int) -> None:
        """Segment this rank's rows of an image; rank ``writer`` writes. Call on all ranks."""
        before = len(self.failures)
        if self._dist.rank == writer:
            drop_record(self._wanted.output, image.result)
        with self._failing(image), self._open(image) as scene:
            parts = self._segmenter.shares(scene.size, self._dist.world_size)
            if self._dist.rank < len(parts):
                self._predict(image, scene, parts[self._dist.rank])
        failed = self._dist.gather(len(self.failures) > before)
        if self._dist.rank == writer:
            if not any(failed):
                with self._failing(image), self._open(image) as scene:
                    self._write(image, scene)
            self._forget(image)

    def _predict(self, image: Picture, scene: Scene, part: slice | None) -> None:
        """Put classes and confidence of some rows into the files of the image."""
        height, width = scene.size
        watch, rows_wanted = self._segmenter.watch, part or slice(0, height)
        size = rows_wanted.stop - rows_wanted.start
        self.num_pixels += size * width
        hidden = not self._dist.is_main or height * width < _BAR_FROM_PX
        with (
            self._rows(image, "index", width) as index,
            self._rows(image, "confidence", width) as confidence,
            tqdm(desc=image.path.name, total=size, unit="row", leave=False, disable=hidden) as bar,
            watch.time("predict"),
        ):
            for rows, logits in self._segmenter.strips(image, scene.size, scene.read, part):
                index.write(rows.start, classes_of(logits).numpy())
                if "confidence" in self._wanted.kinds:
                    confidence.write(rows.start, confidence_of(logits))
                del logits  # not held while the next ones are made
                bar.update(rows.stop - rows.start)

    def _write(self, image: Picture, scene: Scene) -> None:
        wanted, width = self._wanted, scene.size[1]
        with (
            self._segmenter.watch.time("write"),
            self._rows(image, "index", width) as index,
            self._rows(image, "confidence", width) as confidence,
        ):
            written = write_results(
                wanted.output,
                image.result,
                wanted.kinds,
                scene,
                index,
                confidence,
                wanted.classes,
                wanted.palette,
            )
            place = scene.georeference
            write_record(
                wanted.output,
                Record(
                    image=str(image.path),
                    file=state_of(image.path),
                    made_by=wanted.made_by,
                    result=str(image.result),
                    kinds=wanted.kinds,
                    size=scene.size,
                    pixels=written.pixels,
                    pixel_area_m2=None if place is None else place.pixel_area_m2(),
                    thumbnail=jpeg_base64(written.thumbnail),
                ),
            )

    @contextmanager
    def _failing(self, image: Picture) -> Iterator[None]:
        """Note what is wrong with an image, and go on; a full disk is nothing of the image's."""
        try:
            yield
        except UserError as error:
            self.failures.append(str(error))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            self.failures.append(f"{image.path}: the names of its results are too long; rename it")

    def _open(self, image: Picture) -> AbstractContextManager[Scene]:
        return open_scene(image.path, self._wanted.stretch)

    def _rows(self, image: Picture, kind: str, width: int) -> RowFile:
        return RowFile(self._row_path(image, kind), width)

    def _row_path(self, image: Picture, kind: str) -> Path:
        """The same on every rank; ``.partial``: of no use to anybody after a kill."""
        name = hashlib.sha256(str(image.result).encode()).hexdigest()[:24]
        return self._wanted.output / f".{name}.{kind}.partial"

    def _forget(self, image: Picture) -> None:
        for kind in ("index", "confidence"):
            self._row_path(image, kind).unlink(missing_ok=True)


def _throughput(watch: Stopwatch, num_pixels: int, seconds: float) -> str:
    """Where the time of this rank went; reading and structure run beside the prediction."""
    spent = watch.seconds
    parts = {
        "predicting": spent["predict"] - spent["wait"],
        "waiting for the next two": spent["wait"],
        "reading": spent["read"],
        "structure": spent["structure"],
        "writing": spent["write"],
    }
    told = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    rate = num_pixels / 1e6 / max(seconds, 1e-9)
    return f"{num_pixels / 1e6:.1f} megapixels, {rate:.2f} a second; seconds: {told}"
