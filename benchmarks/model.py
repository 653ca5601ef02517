"""Speed and memory of the network against its literal reference and peers.

::

    python benchmarks/model.py [--quick] [--device cuda] [--part stage|peers|sizes]

One JSON line per result; ``ratio`` above 1 means that ours is better. Candidates alternate in one
process; times are medians, ratios are medians of the rounds' ratios. Peak memory is that of the
tensors allocated in one step, forward and backward, above that before it.

- ``stage``: one FE block and its FR at 96 channels, 128x128, batch 2, forward and backward, against
  ``tests/models/literal.py`` (the documented equations, term by term) and against a plain version
  of the same modules: channels-first, fp32 norms, unfolded layer scale.
- ``peers``: the trainable part at ``small`` and ``base`` against UPerNet and Segformer of
  segmentation_models_pytorch and torchvision's DeepLabV3, 512x512: as it is, and with all widths
  scaled to the peer's number of parameters. Peers that are not installed are skipped.
- ``sizes``: fp32 and half precision, eager and compiled; achieved operations per second as a
  fraction of those of a large matrix product in the same run.
"""

import argparse
import math
import statistics
import sys
from bisect import bisect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, Step
from benchmarks.peers import literal_stage, peer_networks, plain_stage
from configs.schema import ModelConfig, VitConfig
from models.build import SIZES, build_network
from models.encoder import Size
from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement
from utils.malloc import keep_freed_memory

IMAGE_PX, NUM_CLASSES = 512, 5


def stage(bench: Bench) -> None:
    """Compare FE + FR with the equations and with plain modules."""
    torch.manual_seed(0)
    fe = FusionEnhancement(channels=96, num_heads=1, mlp_ratio=8, drop_paths=(0.0,))
    fr = FeatureRecalibration(channels=96)
    for module in (fe, fr):
        module.to(bench.device).to(memory_format=torch.channels_last)
    x_rgb, x_structure = (torch.randn(2, 96, 128, 128, device=bench.device) for _ in range(2))
    last = [x.to(memory_format=torch.channels_last) for x in (x_rgb, x_structure)]

    def ours(*x: Tensor) -> tuple[Tensor, Tensor]:
        return fr(*x, *fe(*x))

    def step(function: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> Step:
        def run() -> None:
            out_rgb, out_structure = function(*(x.detach().requires_grad_() for x in inputs))
            torch.autograd.backward([out_rgb, out_structure], [inputs[0], inputs[1]])

        return run

    steps = {
        "ours": step(ours, last),
        "literal equations": step(literal_stage(fe, fr), [x_rgb, x_structure]),
        "plain modules": step(plain_stage(fe, fr), [x_rgb, x_structure]),
    }
    times = dict(zip(steps, bench.alternate(list(steps.values())), strict=True))
    peaks = {name: bench.peak_mib(run) for name, run in steps.items()}
    for peer in list(steps)[1:]:
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times[peer], strict=True))
        ours_s, peer_s = (statistics.median(times[name]) for name in ("ours", peer))
        bench.report(f"FE+FR beside {peer}, time", ours_s, peer_s, "s", ratio=ratio)
        bench.report(
            f"FE+FR beside {peer}, peak memory",
            peaks["ours"],
            peaks[peer],
            "MiB",
            ratio=peaks[peer] / peaks["ours"],
        )


def vsgnet(size: str, device: torch.device, recompute: bool = False) -> nn.Module:
    """Build the trainable part of a named size: both CNN stems, no ViTs."""
    none = VitConfig(name="none")
    config = ModelConfig(size=size, rgb_vit=none, structure_vit=none, recompute=recompute)  # type: ignore[arg-type]
    network = build_network(
        config, num_classes=NUM_CLASSES, structure_channels=4, pictures=((0, 1, 2),)
    )
    return network.to(device)


def network_step(
    network: nn.Module, inputs: list[Tensor], dtype: torch.dtype, *, train: bool
) -> Step:
    """Return a forward (and backward) pass; the loss is a mean of squares for all networks."""
    device = inputs[0].device.type

    def run() -> None:
        network.train(train)
        half = torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
        with torch.set_grad_enabled(train), half:
            logits = network(*inputs)
        if train:
            logits.float().square().mean().backward()
            network.zero_grad(set_to_none=True)

    return run


def batch(bench: Bench) -> list[Tensor]:
    """Return random image and structure inputs."""
    shape = (IMAGE_PX, IMAGE_PX)
    inputs = [torch.rand(bench.batch_size, c, *shape, device=bench.device) for c in (3, 4)]
    return [x.to(memory_format=torch.channels_last) for x in inputs]


def millions(network: nn.Module) -> float:
    """Return the number of parameters in millions."""
    return sum(p.numel() for p in network.parameters()) / 1e6


def at_parameters(size: str, target: float, bench: Bench) -> nn.Module:
    """Build the trainable part of a named size with all widths scaled to so many millions."""

    def scaled(factor: float) -> Size:
        base = SIZES[size]
        units = [math.lcm(8, 2 * heads) for heads in base.num_heads]
        channels = (
            unit * max(1, round(factor * width / unit))
            for width, unit in zip(base.channels, units, strict=True)
        )
        return replace(base, channels=tuple(channels))  # type: ignore[arg-type]

    def build(factor: float, device: torch.device) -> nn.Module:
        with patch.dict(SIZES, {size: scaled(factor)}), device:
            return vsgnet(size, device)

    def excess(step: int) -> float:
        return millions(build(step / 40, torch.device("meta"))) - target

    last = bisect(range(20, 120), 0.0, key=excess) + 20
    nearest = min((last - 1, last), key=lambda step: abs(excess(step)))
    return build(nearest / 40, bench.device)


def peers(bench: Bench, sizes: list[str]) -> None:
    """Compare whole networks in fp32: the named size, and that size at a peer's parameters."""
    inputs = batch(bench)
    for size in sizes:
        named = vsgnet(size, bench.device)
        for name, network in peer_networks(size, NUM_CLASSES):
            network.to(bench.device).to(memory_format=torch.channels_last)
            equal = at_parameters(size, millions(network), bench)
            labels = [
                f"{label} ({millions(each):.2f} M)"
                for label, each in (
                    (f"VSGNet {size}", named),
                    (f"VSGNet {size} scaled", equal),
                    (name, network),
                )
            ]
            for train in (True, False):
                steps = [
                    network_step(each, own, torch.float32, train=train)
                    for each, own in ((named, inputs), (equal, inputs), (network, inputs[:1]))
                ]
                compare(bench, labels, steps, f"{'train' if train else 'infer'}, {IMAGE_PX} px")


def compare(bench: Bench, labels: list[str], steps: list[Step], what: str) -> None:
    """Report every step but the last beside the last, a peer's."""
    *ours, peer_times = bench.alternate(steps)
    *peaks, peer_peak = map(bench.peak_mib, steps)
    for label, times, peak in zip(labels, ours, peaks, strict=False):
        rate, peer_rate = (bench.batch_size / statistics.median(t) for t in (times, peer_times))
        bench.report(
            f"{label} beside {labels[-1]}, {what}",
            rate,
            peer_rate,
            "images/s",
            ratio=statistics.median(b / a for a, b in zip(times, peer_times, strict=True)),
            peak_mib=[round(peak), round(peer_peak)],
        )


def matmul_flops(bench: Bench, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product."""
    side = 8192 if bench.device.type == "cuda" else 2048
    a = torch.randn(side, side, device=bench.device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, a)

    return 2 * side**3 / min(bench.alternate([multiply])[0])


def sizes(bench: Bench, names: list[str], compiled: bool) -> None:
    """Measure training steps in every precision, eager and compiled."""
    inputs = batch(bench)
    dtypes = [torch.float32, torch.bfloat16]
    if bench.device.type == "cuda":
        dtypes.append(torch.float16)
    for name in names:
        network = vsgnet(name, bench.device)
        with FlopCounterMode(display=False) as counter:
            network_step(network, inputs, torch.float32, train=False)()
        # The counter is wrong about the backward pass of depth-wise convolutions (torch 2.15); it
        # costs twice the forward pass.
        num_flops = 3 * counter.get_total_flops()
        variants = {"eager": network}
        if not bench.quick:
            variants["recompute"] = vsgnet(name, bench.device, recompute=True)
        if compiled:
            variants["compiled"] = torch.compile(vsgnet(name, bench.device), fullgraph=True)  # type: ignore[assignment]
        for dtype in dtypes:
            steps = [network_step(n, inputs, dtype, train=True) for n in variants.values()]
            floor = num_flops / matmul_flops(bench, dtype)
            for variant, times, step in zip(variants, bench.alternate(steps), steps, strict=True):
                seconds = statistics.median(times)
                bench.report(
                    f"VSGNet {name} ({millions(network):.2f} M) train, "
                    f"batch {bench.batch_size}, {dtype}, {variant}",
                    bench.batch_size / seconds,
                    None,
                    "images/s",
                    peak_mib=round(bench.peak_mib(step)),
                    share_of_matmul=floor / seconds,
                )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes only")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--part", choices=["stage", "peers", "sizes"], help="default: all")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    args = parser.parse_args()
    bench = Bench(args.device, args.quick)
    keep_freed_memory()  # as the scripts do; it serves the peers as well
    networks = ["small"] if args.quick else ["small", "base"]
    if args.part in (None, "stage"):
        stage(bench)
    if args.part in (None, "peers"):
        peers(bench, networks)
    if args.part in (None, "sizes"):
        sizes(bench, networks if args.device == "cpu" else ["base", "large"], args.compile)


if __name__ == "__main__":
    main()
