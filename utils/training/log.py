"""Console, TensorBoard and JSON-lines logging of a training run; the only use of tensorboard."""

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from configs.schema import Config
from utils.evaluation.metrics import Scores
from utils.files import to_json, write_text
from utils.training.schedule import ValidationSchedule
from utils.training.state import TrainState

T = TypeVar("T")
SCORE_NAMES = {"miou": "mIoU", "mf1": "mF1", "oa": "OA"}
MEASURES = ("lr", "images_per_s", "data_wait_share", "memory_gib")  # of a row, besides losses
_BAR = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} steps{postfix}"


class RunLog:
    """Log of a training run; only the main rank has writers.

    On resume, rows that a killed run wrote after its last checkpoint are dropped, so
    ``metrics.jsonl`` and TensorBoard show one uninterrupted run.

    Args:
        folder: the run folder.
        state: of the run, restored if it resumes; the log begins at its step.
        config: gives the number of epochs and the interval of reports.
        steps_per_epoch: optimiser steps of an epoch.
    """

    def __init__(
        self, folder: Path, state: TrainState, config: Config, steps_per_epoch: int
    ) -> None:
        self._state, self._dist, self._folder = state, state.dist, folder
        self._every_steps = config.run.log_every_steps
        self._schedule = ValidationSchedule(config)
        self._steps_per_epoch = steps_per_epoch
        self._bar = tqdm(
            total=config.optim.num_epochs * steps_per_epoch,
            initial=state.step,
            bar_format=_BAR,
            disable=not self._dist.is_main,
            dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 60.0,  # a file keeps every state of a bar
        )
        self._writer: SummaryWriter | None = None
        self._started = time.perf_counter()
        self._since = self._started  # the last row or validation
        self._step, self._num_images = state.step, 0  # step at that time, and images since
        self.waited_s = 0.0  # for the next batch, since the beginning
        self._waited_before_s = 0.0  # ... until the last row
        self._epoch_ended = self._started
        self._step_s = 0.0  # smoothed over the last steps; 0: not known yet
        self._validation_s = 0.0  # of the last validation; 0: not known yet
        if self._dist.is_main:
            _keep_rows(folder / "metrics.jsonl", state)
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=state.step + 1)

    def begin(self, notes: list[str]) -> None:
        """Report the size of the run, and the notes."""
        state = self._state
        num_trained = sum(p.numel() for p in state.network.parameters() if p.requires_grad)
        self.say(
            f"{self._folder.name}: {num_trained:,} trained parameters, {state.precision.name} on "
            f"{self._dist.world_size} x {self._dist.device.type}, "
            f"{'resumes after' if state.step else 'from'} step {state.step} of {self._bar.total}"
        )
        for note in notes:
            self.say(note)

    def end(self) -> None:
        """Report the best score, and close the files."""
        minutes = (time.perf_counter() - self._started) / 60
        state, folder, identity = self._state, self._folder, self._state.identity
        best = f"best {SCORE_NAMES[identity.selected_by]} {100 * state.best_score:.2f} on "
        best += f"{identity.selected_on} in epoch {state.best_epoch}; {folder}/best.pth"
        never = f"no validation on {identity.selected_on} had a score; {folder}/last.pth"
        self.say(f"done after {minutes:.1f} minutes: {best if state.best_epoch else never}")
        self.close()

    def wait_for_data(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield the batches of a loader, and count the time spent waiting for them."""
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - start
            if batch is None:
                self._epoch_ended = time.perf_counter()
                return
            yield batch

    def step(
        self, step: int, losses: dict[str, Tensor], lr: float, tile_ids: tuple[str, ...]
    ) -> None:
        """Report one optimiser step (numbered from 1). Call on all ranks.

        Raises:
            DataError: a loss since the last report is not finite.
        """
        self._bar.update()
        self._num_images += len(tile_ids) * self._dist.world_size
        if step % self._every_steps:
            return
        self._state.guard.check_losses()
        values = self._dist.mean(torch.stack(list(losses.values()))).tolist()
        seconds = time.perf_counter() - self._since
        row = {
            **dict(zip(losses, values, strict=True)),
            "lr": lr,
            "images_per_s": self._num_images / seconds,
            "data_wait_share": (self.waited_s - self._waited_before_s) / seconds,
            "memory_gib": peak_memory_gib(self._dist.device),
        }
        step_s = seconds / (step - self._step)
        self._step_s = 0.7 * self._step_s + 0.3 * step_s if self._step_s else step_s
        self._begin_interval(step)
        line = step_line(row, self._left_s(step))
        self._bar.set_postfix_str(line, refresh=False)
        width = len(f"{self._bar.total:,}")
        self._record(f"step {step:>{width},} of {self._bar.total:,}  {line}")
        self._write("train", step, row)

    def _begin_interval(self, step: int) -> None:
        """Restart the measurement of speed and waiting time after a step."""
        self._since, self._step, self._num_images = time.perf_counter(), step, 0
        self._waited_before_s = self.waited_s

    def _left_s(self, step: int) -> float:
        """Estimate the seconds from a step to the end of the run, validations included."""
        completed = (step - 1) // self._steps_per_epoch  # without an epoch that ends here
        validations_s = self._schedule.num_validations_after(completed) * self._validation_s
        return (self._bar.total - step) * self._step_s + validations_s

    def evaluation(self, result: Scores, is_best: bool) -> None:
        """Report the scores of a validation: all to the files, one line to the console."""
        state = self._state
        row = {"miou": result.miou, "mf1": result.mf1, "oa": result.oa}
        per_class = zip(state.identity.classes, result.iou, strict=True)
        self._write("val", state.step, {**row, **{f"iou/{name}": iou for name, iou in per_class}})
        self.say(
            f"epoch {state.epoch}: mIoU {100 * result.miou:.2f}  mF1 {100 * result.mf1:.2f}  "
            f"OA {100 * result.oa:.2f} on {state.identity.selected_on}"
            + ("  (best so far)" if is_best else "")
        )
        self._validation_s = time.perf_counter() - self._epoch_ended
        self._begin_interval(state.step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Add an image ``(H, W, 3)`` uint8 to TensorBoard, on the main rank."""
        if self._writer is not None:
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def say(self, message: str) -> None:
        """Write a line to the console, above the progress bar, and to train.log."""
        if self._dist.is_main:
            self._bar.write(message)
            self._record(message)

    def _record(self, message: str) -> None:
        """Write a line to train.log."""
        if self._dist.is_main:
            with (self._folder / "train.log").open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}\n")

    def close(self) -> None:
        """Close the progress bar and the files."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _write(self, kind: str, step: int, row: dict[str, float]) -> None:
        if self._writer is None:
            return
        for name, value in row.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **to_json(row)}) + "\n")


def step_line(row: dict[str, float], left_s: float) -> str:
    """Return a row as text of fixed width, the most important values first.

    Args:
        row: losses by name, the sum first, then the ``MEASURES``.
        left_s: seconds to the end of the run.
    """
    losses = [f"{name} {value:.4f}" for name, value in row.items() if name not in MEASURES]
    return "  ".join(
        [
            f"{format_duration(left_s)} left",
            *losses,
            f"lr {row['lr']:.2e}",
            f"{row['images_per_s']:7.2f} images/s",
            f"data wait {100 * row['data_wait_share']:3.0f} %",
            f"{row['memory_gib']:6.2f} GiB",
        ]
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; a last line truncated by a kill is skipped."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _keep_rows(path: Path, state: TrainState) -> None:
    """Drop the rows of a metrics.jsonl that were written after the checkpoint of ``state``."""
    rows = [row for row in read_rows(path) if row["step"] <= state.step]
    if state.step_in_epoch:  # the validation after this step is repeated
        rows = [row for row in rows if row["kind"] == "train" or row["step"] < state.step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory: of tensors on a CUDA device, of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def format_duration(time_s: float) -> str:
    """Return ``12:05:09``, preceded by the number of days if any."""
    minutes, second = divmod(round(time_s), 60)
    hour, minute = divmod(minutes, 60)
    days, hour = divmod(hour, 24)
    return f"{days} days " * (days > 0) + f"{hour:02d}:{minute:02d}:{second:02d}"
