"""Structure maps of an image: ours beside the packages', alternating in one process.

::

    python benchmarks/generation.py [--quick] [--device cuda] [--model-type vit_h]
                                    [--part sam|depth] [--passing 0.1] [--plain-memory]

One JSON line per result; a ``ratio`` above 1 means that ours is better. SAM has random weights that
find blobs (``lively_sam.py``). ``--passing`` is the fraction of masks whose predicted IoU passes
the threshold, by default a tenth: 300 of the 32 x 32 grid's. ``--quick`` takes 8 x 8 points.

- ``image``: seconds from the picture to the written map. The package's masks are painted by our
  rule. ``different_px`` counts pixels with another id; ``agreement`` is the mean over the
  package's segments of the best IoU with one of ours.
- ``encoder``, ``decoder``, ``post-processing``: parts of the same run.
- ``tflop``: operations of matrix products and convolutions; ``floor_s``: their time at the rate of
  a large fp32 matrix product in the same run; ``share``: that over the measured time.
- ``peak memory``: of the process on the CPU, of the allocator on a CUDA device.

On the CPU both sides benefit from ``utils.malloc``, which our programs use and a user of the
package does not; ``--plain-memory`` disables it for both.

Depth Anything v2_small stands beside the ``transformers`` one, random weights on both sides, with
the same steps before and after; ``transformers`` is a benchmark-only extra.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, Step
from benchmarks.lively_sam import enliven
from configs import schema
from datasets.preparation.synthetic import draw_scene
from datasets.rasters import SUFFIX, write_raster
from models.structure.depth_anything import DepthAnything, load_depth_anything, network_size
from models.structure.sam import Sam
from models.structure.segments import canonical
from tests.models.literal_paint import paint_literally
from utils.malloc import keep_freed_memory

SIZE_PX = 512


class Stopwatch:
    """Time spent in methods of an object, synchronised with the device."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace a method by a timed one."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            result: list[Any] = []
            taken = self._bench.seconds(lambda: result.append(original(*args, **kwargs)))
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
            return result[0]

        setattr(owner, method, timed)


def lively(model_type: str, image: np.ndarray, device: torch.device) -> Any:
    """Return a network whose random weights are adjusted to the image."""
    torch.manual_seed(0)
    network = sam_model_registry[model_type]().to(device)
    picture = torch.from_numpy(ResizeLongestSide(1024).apply_image(image))
    pixels = network.preprocess(picture.permute(2, 0, 1).unsqueeze(0).to(device))
    return enliven(network, pixels)


def agreement(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Return the mean over their segments, 0 included, of the best IoU with one of ours."""
    columns = int(ours.max()) + 1
    joint = np.bincount(theirs.ravel().astype(np.int64) * columns + ours.ravel())
    joint = np.pad(joint, (0, (int(theirs.max()) + 1) * columns - joint.size)).reshape(-1, columns)
    union = joint.sum(1, keepdims=True) + joint.sum(0) - joint
    present = joint.sum(1) > 0
    return float((joint / np.maximum(union, 1)).max(1)[present].mean())


def operations(make: Callable[[], Any]) -> float:
    """Count the floating-point operations of matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        make()
    return counter.get_total_flops()


def package_operations(model_type: str, num_points: int) -> dict[str, float]:
    """Count the operations of the package on meta tensors."""
    with torch.device("meta"), torch.no_grad():
        network = sam_model_registry[model_type]()
        encoder = operations(lambda: network.image_encoder(torch.empty(1, 3, 1024, 1024)))
        size = network.prompt_encoder.image_embedding_size
        image = torch.empty(1, network.mask_decoder.transformer_dim, *size)
        one = operations(
            lambda: network.mask_decoder(image, image, torch.empty(1, 2, 256), image, True)
        )
    return {"encoder": encoder, "decoder": num_points * one}


def sam(bench: Bench, model_type: str, passing: float) -> None:
    """Measure our generator beside ``SamAutomaticMaskGenerator``."""
    image = draw_scene(0, SIZE_PX).image
    network = lively(model_type, image, bench.device)
    side = 8 if bench.quick else 32
    options: dict[str, Any] = {"points_per_side": side, "stability_score_thresh": 0.1}
    options["box_nms_thresh"] = 0.99
    half = torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    ours = Sam(schema.SamConfig(**options), network, dtype=half)
    flops = {"ours": prepare(ours, image, passing)}
    flops["package"] = package_operations(model_type, side**2)
    package = SamAutomaticMaskGenerator(
        network, pred_iou_thresh=ours.config.pred_iou_thresh, **options
    )
    count = ours.images_per_batch
    clocks = {"ours": Stopwatch(bench), "package": Stopwatch(bench)}
    clocks["ours"].watch(ours, "_encode", "encoder")
    clocks["ours"].watch(ours._decoder, "decode", "decoder")
    clocks["package"].watch(package.predictor, "set_image", "encoder")
    clocks["package"].watch(network.mask_decoder, "forward", "decoder")

    def make_theirs() -> list[np.ndarray]:
        masks = [record["segmentation"] for record in package.generate(image)]
        survivors.append(len(masks))
        return [canonical(paint_literally(masks, image.shape[:2]))]

    survivors: list[int] = []
    sides = {"ours": lambda: ours.generate_batch([image] * count), "package": make_theirs}
    maps: dict[str, np.ndarray] = {}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in sides}

    def run(name: str, make: Callable[[], list[np.ndarray]]) -> None:
        clocks[name].seconds.clear()
        start = time.perf_counter()
        made: list[np.ndarray] = []
        peak = bench.resident_mib(lambda: made.extend(written(ids) for ids in make()))
        total = (time.perf_counter() - start) / len(made)
        parts = {part: s / len(made) for part, s in clocks[name].seconds.items()}
        parts["post-processing"] = total - sum(parts.values())
        rows[name].append({"image": total, **parts, "peak memory": peak})
        maps[name] = made[0]

    for _ in range(1 if bench.device.type == "cpu" else 5):
        for name, make in sides.items():
            run(name, make)
    what = f"SAM {model_type}, {side}² points, {passing:.0%} pass, {survivors[0]} masks"
    report(bench, what, rows, flops, maps)


def depth(bench: Bench) -> None:
    """Measure our Depth Anything beside that of ``transformers``, on one image."""
    image = draw_scene(0, SIZE_PX).image
    half = torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    config = schema.DepthAnythingConfig(checkpoint="random")
    network, _ = load_depth_anything(config, bench.device, half)
    ours = DepthAnything(config, network, dtype=half)
    try:
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    except ImportError:
        seconds = bench.alternate([lambda: ours.generate(image)])[0]
        bench.report("Depth Anything v2_small: image", statistics.median(seconds), None, "s")
        return
    outputs = [f"stage{index}" for index in (3, 6, 9, 12)]
    backbone = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_features=outputs,
        reshape_hidden_states=False,
    )
    theirs = DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone))
    theirs.eval().to(bench.device)

    def make_theirs() -> np.ndarray:
        with torch.no_grad():
            picture = ours._preprocess(image, network_size(SIZE_PX, SIZE_PX, 518))
            found = theirs(pixel_values=picture).predicted_depth[None]
            size = (SIZE_PX, SIZE_PX)
            return F.interpolate(found, size, mode="bilinear", align_corners=True).cpu().numpy()

    steps: list[Step] = [lambda: ours.generate(image), make_theirs]
    times = bench.alternate(steps)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    mine, peer = (statistics.median(each) for each in times)
    bench.report("Depth Anything v2_small: image", mine, peer, "s", ratio=ratio)
    mine, peer = (bench.resident_mib(step) for step in steps)
    bench.report("Depth Anything v2_small: peak memory", mine, peer, "MiB", ratio=peer / mine)


def prepare(generator: Sam, image: np.ndarray, passing: float) -> dict[str, float]:
    """Set the threshold of the predicted IoU and count operations, which also warms up."""
    height, width = image.shape[:2]
    with torch.no_grad():
        kept: list[Any] = []
        encoder = operations(lambda: kept.extend(generator._encode([image])))
        points = torch.cartesian_prod(*[torch.arange(64.0, 1024, 128)] * 2).to(generator.device)
        count = generator.config.points_per_batch
        _, iou = generator._decoder.decode(kept[0], points, -1.0, count)
        threshold = float(iou.quantile(1 - passing))
        generator.config = replace(generator.config, pred_iou_thresh=threshold)
        crop = generator._crop(0, 0, width, height)
        decoder = operations(lambda: generator._search(kept[0], crop, 0, 0, (height, width)))
    return {"encoder": encoder, "decoder": decoder}


def written(ids: np.ndarray) -> np.ndarray:
    """Write a map as a store does, without its facts, and return it."""
    with tempfile.TemporaryDirectory() as folder:
        write_raster(Path(folder) / f"map{SUFFIX}", ids)
    return ids


def report(
    bench: Bench,
    what: str,
    rows: dict[str, list[dict[str, float]]],
    flops: dict[str, dict[str, float]],
    maps: dict[str, np.ndarray],
) -> None:
    """Report one line per part."""
    rate = bench.product_rate()
    for part in rows["ours"][0]:
        ours, theirs = ([row[part] for row in rows[name]] for name in ("ours", "package"))
        more: dict[str, Any] = {}
        if part == "image":
            more["different_px"] = int((maps["ours"] != maps["package"]).sum())
            more["agreement"] = agreement(maps["package"], maps["ours"])
            more["num_segments"] = int(maps["package"].max())
        if part in flops["ours"]:
            for name, times in (("ours", ours), ("package", theirs)):
                floor = flops[name][part] / rate
                more[f"{name}_tflop"] = flops[name][part] / 1e12
                more[f"{name}_floor_s"] = floor
                more[f"{name}_share"] = floor / statistics.median(times)
        bench.report(
            f"{what}: {part}",
            statistics.median(ours),
            statistics.median(theirs),
            "MiB" if part == "peak memory" else "s",
            ratio=statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
            **more,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 x 8 points instead of 32 x 32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model-type", choices=("vit_b", "vit_l", "vit_h"), default="vit_b")
    parser.add_argument("--part", choices=("sam", "depth"), help="measure this part only")
    parser.add_argument("--passing", type=float, default=0.1, help="fraction of the masks")
    parser.add_argument("--plain-memory", action="store_true", help="the C library's defaults")
    args = parser.parse_args()
    if args.device == "cpu" and not args.plain_memory:
        keep_freed_memory()
    bench = Bench(args.device, args.quick)
    if args.part != "sam":
        depth(bench)
    if args.part != "depth":
        sam(bench, args.model_type, args.passing)


if __name__ == "__main__":
    main()
