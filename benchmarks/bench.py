"""Timing, memory measurement and JSON output shared by the benchmarks."""

import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]


class Bench:
    """Device, number of rounds, and measurements of a benchmark."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device = torch.device(device)
        self.quick = quick
        self.rounds = 1 if quick else 9
        self.batch_size = 16 if device == "cuda" else 2
        name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
        threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
        self.machine = f"{name}{threads}, torch {torch.__version__}"

    def seconds(self, step: Step) -> float:
        """Return the duration of a step, including its work on the device."""
        self._wait()
        start = time.perf_counter()
        step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def alternate(self, steps: list[Step]) -> list[list[float]]:
        """Time alternating steps; return seconds by step and round, without the warm-up round."""
        times: list[list[float]] = [[] for _ in steps]
        for _ in range(self.rounds + 1):
            for own, step in zip(times, steps, strict=True):
                own.append(self.seconds(step))
        return [own[1:] for own in times]

    def peak_mib(self, step: Step) -> float:
        """Return the peak memory of tensors during a step, above that before it."""
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.seconds(step)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(profile_memory=True, activities=activities) as profile:
            step()
        events = profile.profiler.kineto_results.events()
        memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        held = peak = 0
        for _, num_bytes in memory:
            held += num_bytes
            peak = max(peak, held)
        return peak / 2**20

    def resident_mib(self, step: Step) -> float:
        """Return the peak memory of the process above that before a step; CUDA: ``peak_mib``."""
        if self.device.type == "cuda":
            return self.peak_mib(step)
        ctypes.CDLL(None).malloc_trim(0)  # memory freed by earlier steps must not be reused
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        step()
        return (_status("VmHWM") - before) / 2**10

    def product_rate(self) -> float:
        """Return the operations per second of a large fp32 matrix product."""
        matrix = torch.randn(4096, 4096, device=self.device)
        product = torch.empty_like(matrix)
        times = [self.seconds(lambda: torch.mm(matrix, matrix, out=product)) for _ in range(4)]
        return 2 * 4096**3 / statistics.median(times[1:])

    def report(self, name: str, ours: float, peer: float | None, unit: str, **more: Any) -> None:
        """Print one JSON line; ``ratio`` is ours over peer unless given."""
        ratio = more.pop("ratio", None if peer is None else ours / peer)
        line = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, **more}
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
        print(json.dumps({**rounded, "machine": self.machine}), flush=True)


def _status(key: str) -> float:
    """Return a value of this process's kernel status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"{key}:")).split()[1])
