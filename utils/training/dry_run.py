"""Dry run: duration and memory of a training run, estimated from a few timed steps."""

import time
from collections.abc import Callable

import torch

from utils.distributed import DistContext
from utils.training.log import RunLog, format_duration, peak_memory_gib
from utils.training.schedule import ValidationSchedule


def measure(
    step: Callable[[], None], validate: Callable[[], None], log: RunLog, dist: DistContext
) -> tuple[float, float]:
    """Time an optimiser step and the validation of one image. Call on all ranks.

    Args:
        step: takes one step. The first call, which compiles and starts the loader, is not timed.
        validate: predicts one image.
        log: counts the time spent waiting for data, which is subtracted.
        dist: this process.

    Returns:
        Seconds of a step and of an image on this rank.
    """
    _seconds(step, dist)
    before = log.waited_s
    step_s = _seconds(step, dist) - (log.waited_s - before)
    return step_s, _seconds(validate, dist)


def _seconds(act: Callable[[], None], dist: DistContext) -> float:
    """Return the duration of a call, including its work on the device."""
    start = time.perf_counter()
    act()
    if dist.device.type == "cuda":
        torch.cuda.synchronize(dist.device)
    return time.perf_counter() - start


def describe(
    step_s: float,
    image_s: float,
    schedule: ValidationSchedule,
    steps_per_epoch: int,
    num_images: int,
    device: torch.device,
) -> str:
    """Return the estimate for the console; ``num_images`` are those of a rank's validation."""
    num_steps = schedule.config.optim.num_epochs * steps_per_epoch
    num_predictions = num_images * schedule.num_validations_after(0)
    total_s = num_steps * step_s + num_predictions * image_s
    return (
        "dry run: every part works, and no run was started\n"
        f"  a step              {step_s:8.3f} s, {num_steps:,} of them\n"
        f"  a validation image  {image_s:8.3f} s, {num_predictions:,} of them\n"
        f"  the whole run       {format_duration(total_s)}, without waiting for data\n"
        f"  peak memory         {peak_memory_gib(device):8.2f} GiB on {device}"
    )
