"""A dry run: what a training run would take, from a few timed parts of it."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from utils.distributed import DistContext
from utils.training.schedule import Rhythm


class Waited(Protocol):
    """What is needed of a log."""

    waited_s: float  # for data, since the beginning


@dataclass(frozen=True, kw_only=True)
class Times:
    """What was measured on this rank."""

    step_s: float  # without waiting for data
    image_s: float
    memory_gib: float
    device: str


def _seconds(act: Callable[[], None], dist: DistContext) -> float:
    """How long a call takes, until the device is done with it."""
    start = time.perf_counter()
    act()
    if dist.device.type == "cuda":
        torch.cuda.synchronize(dist.device)
    return time.perf_counter() - start


def peak_memory_gib(device: torch.device) -> float:
    """Most memory held so far: by tensors on a CUDA device, by this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def measure(
    step: Callable[[], None], validate: Callable[[], None], log: Waited, dist: DistContext
) -> Times:
    """Time a step and a validation image. Call on all ranks.

    Args:
        step: takes one step.
        validate: predicts one image.
        log: counts the time spent waiting for data, which is left out.
        dist: this process.
    """
    _seconds(step, dist)  # this one also compiles, and starts the loader
    before = log.waited_s
    step_s = _seconds(step, dist) - (log.waited_s - before)
    return Times(
        step_s=step_s,
        image_s=_seconds(validate, dist),
        memory_gib=peak_memory_gib(dist.device),
        device=str(dist.device),
    )


def describe(times: Times, rhythm: Rhythm, steps_per_epoch: int, num_images: int) -> str:
    """What a whole run would take, for the console.

    Args:
        times: as measured.
        rhythm: of the run.
        steps_per_epoch: makes steps of epochs.
        num_images: validation images of a rank.
    """
    num_steps = rhythm.config.optim.num_epochs * steps_per_epoch
    num_predictions = num_images * rhythm.num_validations
    whole_s = num_steps * times.step_s + num_predictions * times.image_s
    return (
        "dry run: every part works, and no run was begun\n"
        f"  a step              {times.step_s:8.3f} s, {num_steps:,} of them\n"
        f"  a validation image  {times.image_s:8.3f} s, {num_predictions:,} of them\n"
        f"  the whole run       {hours(whole_s)}, without waiting for data\n"
        f"  peak memory         {times.memory_gib:8.2f} GiB on {times.device}"
    )


def hours(time_s: float) -> str:
    """``12:05:09``, or with days before it."""
    minutes, second = divmod(round(time_s), 60)
    hour, minute = divmod(minutes, 60)
    days, hour = divmod(hour, 24)
    return f"{days} days " * (days > 0) + f"{hour:02d}:{minute:02d}:{second:02d}"
