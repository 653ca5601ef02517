"""Folder of a training run: creation, resuming, and the record of its environment."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from configs.schema import Config, OptimConfig
from datasets.structure_maps import MapRecipe
from utils.config import config_to_dict, config_to_yaml, differences
from utils.distributed import DistContext
from utils.errors import ConfigError
from utils.files import remove_partial, write_json, write_text
from utils.training.checkpoint import Checkpoint, load_checkpoint
from utils.training.state import TrainState

_PACKAGES = ("torch", "torchvision", "timm", "segment-anything", "numpy", "pillow")
# Keys of the identity that config.yaml and the data set hold.
_ELSEWHERE = ("recipe", "palette", "trained_on", "fitted")


def record_environment(folder: Path, state: TrainState, optim: OptimConfig) -> None:
    """Write ``environment.json``: software, hardware, batch division and data of a run.

    Call on all ranks.

    Args:
        folder: of the run.
        state: of the run; its identity names data set, classes, splits, structure maps and frozen
            ViTs, and its precision has switched TF32 on or off.
        optim: gives the division of a batch.
    """
    dist = state.dist
    is_cuda = dist.device.type == "cuda"
    per_rank = optim.batch_size // dist.world_size
    known = {key: value for key, value in asdict(state.identity).items() if key not in _ELSEWHERE}
    maps = {
        store: {**recipe, "digest": MapRecipe(**recipe).digest()}
        for store, recipe in known["maps"].items()
    }
    environment = {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": _git("status", "--porcelain"),
        "devices": dist.gather(_device_name(dist.device)),  # of every rank
        "num_threads": torch.get_num_threads(),
        "precision": state.precision.name,
        "tf32": {  # rounding of fp32 products, on CUDA devices only
            "matmul": is_cuda and torch.backends.cuda.matmul.allow_tf32,
            "cudnn": is_cuda and torch.backends.cudnn.allow_tf32,
        },
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "world_size": dist.world_size,
        "batch": {
            "samples": optim.batch_size,
            "per_rank": per_rank,
            "micro_batches_per_rank": optim.accumulate,
            "per_micro_batch": per_rank // optim.accumulate,
        },
        "data": {**known, "maps": maps},
    }
    if dist.is_main:
        write_json(folder / "environment.json", environment)


def _device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU as reported by the system."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Return the output of git about this code, or None without git or a repository."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


# Settings that may differ on resume, because they do not change the result.
_FREE = (
    "data.num_workers",
    "run.log_every_steps",
    "run.save_every_steps",
    "run.keep_every_epochs",
    "run.output",
)


@contextmanager
def scratch_output(config: Config) -> Iterator[Config]:
    """Yield the recipe, for a dry run with a temporary output folder."""
    if not config.run.dry:
        yield config
        return
    with TemporaryDirectory() as folder:
        yield replace(config, run=replace(config.run, output=folder))


def open_run_folder(config: Config, dist: DistContext) -> tuple[Path, Checkpoint | None]:
    """Create ``OUTPUT/NAME``, or load the checkpoint of a run to resume. Call on all ranks.

    Returns:
        The folder, and its ``last.pth`` if there is one.

    Raises:
        ConfigError: the folder holds a run of another recipe.
    """
    folder = Path(config.run.output) / config.name
    last = folder / "last.pth"
    checkpoint = load_checkpoint(last) if last.is_file() else None
    if checkpoint is not None:
        lines = differences(config_to_dict(config), checkpoint.identity.recipe)
        lines = [line for line in lines if not line.startswith(_FREE)]
        if lines:
            raise ConfigError(
                f"{folder} holds a run of another recipe (this one | that one): "
                f"{'; '.join(lines)}. Give this run another name (name=NEW), where "
                f"run.fine_tune={last} starts from the weights of that one, or delete the folder"
            )
    dist.barrier()  # the main rank writes after all have read
    if dist.is_main:
        remove_partial(folder)
        write_text(folder / "config.yaml", config_to_yaml(config))
    return folder, checkpoint
