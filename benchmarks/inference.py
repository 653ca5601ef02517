"""Whole-image prediction compared with the usual loop of this field: one window at a time.

::

    python benchmarks/inference.py [--quick] [--device cuda] [--part speed|memory]

One JSON line per result; ``ratio`` above 1 means that ours is better. ``Predictor`` is compared
with a loop over the same windows with the same network and encoder. The loop keeps logits and
counts of the whole image, adds the logits of each window, padded to the size of the image
(``padded``, as the slide inference of mmsegmentation does) or in place (``in place``, its best
variant), divides by the counts and takes the classes. Both alternate in one process; times are
medians, ratios are medians of the rounds' ratios.

- ``speed``: megapixels per second. Before that, the loop runs with our weights of the windows; the
  largest difference of the logits and the number of pixels of another class are reported.
- ``memory`` (minutes; not with ``--quick``): 6000x6000 pixels, once for each side in its own
  process: peak memory above that of network and image, and seconds.
"""

import argparse
import math
import multiprocessing
import statistics
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench
from configs.schema import EvalConfig, ModelConfig, StructureConfig, VitConfig
from datasets.encodings import StructureEncoder
from models.build import build_network
from utils.boxes import window_starts
from utils.evaluation.evaluate import Predictor
from utils.evaluation.sliding_window import window_weights
from utils.malloc import keep_freed_memory
from utils.precision import Precision

Size = tuple[int, int]
NUM_CLASSES, SEGMENT_PX = 6, 16
CONFIG = EvalConfig()


class Loop:
    """Prediction of one window at a time, with logits and counts of the whole image."""

    def __init__(self, network: nn.Module, encoder: StructureEncoder, padded: bool) -> None:
        self._network, self._encoder, self._padded = network, encoder, padded

    @torch.inference_mode()
    def logits(self, image: Tensor, maps: dict[str, Tensor], *, ours: bool = False) -> Tensor:
        """Return logits ``(C, H, W)``; ``ours``: with our window weights, not equal ones."""
        device = next(self._network.parameters()).device
        height, width = image.shape[-2:]
        window_px, overlap_px = CONFIG.window_px, CONFIG.overlap_px
        total = torch.zeros(1, NUM_CLASSES, height, width, device=device)
        count = torch.zeros(1, 1, height, width, device=device)
        across = window_weights(width, window_px, overlap_px)
        for top, down in window_weights(height, window_px, overlap_px).items():
            for left in window_starts(width, window_px, overlap_px):
                bottom, right = min(top + window_px, height), min(left + window_px, width)
                part = (..., slice(top, bottom), slice(left, right))
                picture = image[part].to(device).float() / 255
                cut_maps = {store: ids[part].to(device) for store, ids in maps.items()}
                inputs = [picture, *self._encoder(picture, cut_maps)]
                last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
                logits: Tensor = self._network(*last)
                weight = torch.ones(())
                if ours:
                    weight = down.unsqueeze(1) * across[left]
                    logits = logits * weight
                if self._padded:
                    total += F.pad(logits, (left, width - right, top, height - bottom))
                else:
                    total[part] += logits
                count[part] += weight
        return (total / count)[0]

    def __call__(self, image: Tensor, maps: dict[str, Tensor]) -> Tensor:
        """Return class indices ``(H, W)`` uint8."""
        return self.logits(image, maps).argmax(0).to(torch.uint8).cpu()


def build(size: str, device: torch.device) -> tuple[nn.Module, StructureEncoder]:
    """Build a network of a named size without ViTs, and its encoder."""
    torch.manual_seed(0)
    none, encoder = VitConfig(name="none"), StructureEncoder(StructureConfig())
    config = ModelConfig(size=size, rgb_vit=none, structure_vit=none)  # type: ignore[arg-type]
    network = build_network(
        config,
        num_classes=NUM_CLASSES,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
    )
    return network.to(device).eval(), encoder


def scene(size: Size, encoder: StructureEncoder) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image of noise and maps of square segments."""
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    down, across = (torch.arange(length, dtype=torch.int32) // SEGMENT_PX for length in size)
    ids = 1 + (down.unsqueeze(1) * 251 + across) % 65535
    return image, dict.fromkeys(encoder.stores, ids.unsqueeze(0).to(torch.uint16))


def predictor(network: nn.Module, encoder: StructureEncoder, device: torch.device) -> Predictor:
    """Build our predictor."""
    return Predictor(network, encoder, Precision("fp32", device), CONFIG, device)


def speed(bench: Bench, size: str, image_size: Size) -> None:
    """Report megapixels per second of ours and of both loops."""
    network, encoder = build(size, bench.device)
    image, maps = scene(image_size, encoder)
    ours = predictor(network, encoder, bench.device)
    peers = {
        "in place": Loop(network, encoder, padded=False),
        "padded": Loop(network, encoder, padded=True),
    }
    same = peers["in place"].logits(image, maps, ours=True)
    logits = torch.cat([part for _, part in ours.strips(image, maps)], 1)
    difference = (logits - same).abs().max().item()
    num_other = int((logits.argmax(0) != same.argmax(0)).sum())
    del same, logits
    loops = list(peers.values())
    times = bench.alternate([lambda f=f: f(image, maps) for f in [ours, *loops]])  # type: ignore[misc]
    rate = math.prod(image_size) / 1e6
    for name, peer in zip(peers, times[1:], strict=True):
        bench.report(
            f"{size}, {image_size[0]}x{image_size[1]}, beside the loop {name}",
            rate / statistics.median(times[0]),
            rate / statistics.median(peer),
            "megapixels/s",
            ratio=statistics.median(b / a for a, b in zip(times[0], peer, strict=True)),
            largest_difference=f"{difference:.1e}",
            pixels_of_other_class=num_other,
        )


def measure(side: str, size: str, image_size: Size, device: str, pipe: Connection) -> None:
    """Send peak memory in MiB and seconds of one prediction; the target of a process."""
    bench = Bench(device, quick=True)
    keep_freed_memory()
    network, encoder = build(size, bench.device)
    image, maps = scene(image_size, encoder)
    if side == "ours":
        predict = predictor(network, encoder, bench.device)
    else:
        predict = Loop(network, encoder, padded=side == "padded")  # type: ignore[assignment]
    seconds: list[float] = []
    peak = bench.resident_mib(lambda: seconds.append(bench.seconds(lambda: predict(image, maps))))
    pipe.send((peak, seconds[0]))


def memory(bench: Bench, size: str, image_size: Size) -> None:
    """Report the peak memory of ours and of both loops, each in its own process."""
    found = {}
    context = multiprocessing.get_context("spawn")
    for side in ("ours", "in place", "padded"):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (side, size, image_size, bench.device.type, sender)
        process = context.Process(target=measure, args=arguments)
        process.start()
        sender.close()
        found[side] = receiver.recv()  # ends with an error if the process did
        process.join()
    peak, seconds = found.pop("ours")
    for name, (peer_peak, peer_seconds) in found.items():
        bench.report(
            f"{size}, {image_size[0]}x{image_size[1]}, peak memory beside the loop {name}",
            peak,
            peer_peak,
            "MiB",
            ratio=peer_peak / peak,
            seconds=[round(seconds, 1), round(peer_seconds, 1)],
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, smaller images")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--part", choices=["speed", "memory"], help="default: both")
    args = parser.parse_args()
    bench = Bench(args.device, args.quick)
    keep_freed_memory()  # as eval.py does; it serves the loop as well
    for size in ("tiny", "small"):
        if args.part in (None, "speed"):
            speed(bench, size, (640, 1152) if args.quick else (2176, 2176))
        if not args.quick and args.part in (None, "memory"):
            memory(bench, size, (6000, 6000))


if __name__ == "__main__":
    main()
