"""What a network costs: parameters, operations, time and memory, counted or measured here."""

import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.precision import Precision
from utils.training.dry_run import peak_memory_gib
from utils.training.run_folder import device_name

Shape = Sequence[int]

_BUDGET_S = 2.5  # that repeating the latency, and the throughput, may take each
_MAX_REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of the network alone: windows are not read, structure maps not encoded."""

    num_trainable: int  # parameters
    num_frozen: int
    window_px: tuple[int, int]  # height and width of what the figures below are about
    flops: int  # of one window; a multiplication and an addition are two
    latency_s: float  # of one window by itself, median
    batch_size: int  # windows computed together in the two figures below
    windows_per_s: float
    megapixels_per_s: float
    peak_memory_gib: float  # of the evaluation: tensors on CUDA, the whole process on a CPU
    on_cuda: bool
    device: str
    num_threads: int
    precision: str
    versions: dict[str, str]


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """How many are trainable, and how many frozen."""
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    trainable = sum(size for size, learns in sizes if learns)
    return trainable, sum(size for size, _ in sizes) - trainable


def count_flops(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Operations of a forward pass, the same number on every device, the meta device included.

    Those of matrix products, convolutions and attention, as ``torch.utils.flop_counter`` counts
    them: a multiplication and an addition are two.
    """
    # Attention as torch computes it on a CPU is unknown to its counter.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, torch.inference_mode():
        network(*inputs)
    return counter.get_total_flops()


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Products of queries ``(..., N, D)`` with keys, and of the weights with values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def measure_cost(
    network: nn.Module,
    *,
    channels: Sequence[int],
    window_px: tuple[int, int],
    batch_size: int,
    precision: Precision,
    device: torch.device,
) -> Cost:
    """Run the network on windows of noise, for a few seconds.

    Every figure takes one run at least; what is repeated is bounded by time. Where a whole batch
    would take longer than that, the throughput is that of fewer windows.

    Args:
        network: in eval mode, on ``device``.
        channels: of each of its inputs.
        window_px: height and width of a window.
        batch_size: windows computed together.
        precision: how the network is computed.
        device: where it is computed.
    """
    peak_gib = peak_memory_gib(device)  # of the evaluation, not of the counting below
    trainable, frozen = count_parameters(network)

    def windows(number: int) -> list[Tensor]:
        shapes = ((number, count, *window_px) for count in channels)
        noise = (torch.rand(shape, device=device) for shape in shapes)
        return [x.contiguous(memory_format=torch.channels_last) for x in noise]

    def median_s(number: int) -> float:
        inputs = windows(number)
        with torch.inference_mode(), precision.autocast():
            return _median_s(lambda: network(*inputs), device)

    with precision.autocast():
        flops = count_flops(network, windows(1))  # also warms up
    latency_s = median_s(1)
    number = max(1, min(batch_size, int(_BUDGET_S / latency_s)))
    batch_s = latency_s if number == 1 else median_s(number)
    rate = number / batch_s
    return Cost(
        num_trainable=trainable,
        num_frozen=frozen,
        window_px=window_px,
        flops=flops,
        latency_s=latency_s,
        batch_size=number,
        windows_per_s=rate,
        megapixels_per_s=rate * window_px[0] * window_px[1] / 1e6,
        peak_memory_gib=peak_gib,
        on_cuda=device.type == "cuda",
        device=device_name(device),
        num_threads=torch.get_num_threads(),
        precision=precision.name,
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )


def _median_s(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of a run; the first one warms up, and counts only if there is time for no other."""
    times: list[float] = []
    while len(times) <= _MAX_REPEATS and sum(times) < _BUDGET_S:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def cost_facts(cost: Cost) -> dict[str, str]:
    """The figures in words, in display order."""
    height, width = cost.window_px
    threads = f"{cost.num_threads} thread{'s' * (cost.num_threads != 1)}"
    memory = "by tensors" if cost.on_cuda else "by the whole process"
    return {
        "parameters": f"{cost.num_trainable / 1e6:.2f} M trainable, {cost.num_frozen / 1e6:.2f} M "
        "frozen",
        "operations": f"{cost.flops / 1e9:.1f} GFLOPs for a window of {height}x{width} px",
        "latency": f"{1000 * cost.latency_s:.1f} ms for such a window by itself",
        "throughput": f"{cost.windows_per_s:.2f} windows/s, {cost.megapixels_per_s:.2f} "
        f"megapixels/s, {cost.batch_size} at a time",
        "peak memory": f"{cost.peak_memory_gib:.2f} GiB {memory}, up to the end of the evaluation",
        "computed on": f"{cost.device}, {threads}, {cost.precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in cost.versions.items()),
    }
