"""The folder of a training run: opened new, or gone on with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from configs.schema import Config
from utils.config import config_to_dict, config_to_yaml, differences
from utils.distributed import DistContext
from utils.errors import ConfigError
from utils.files import remove_partial, write_text
from utils.training.checkpoint import Checkpoint, load_checkpoint

# Settings that may change when a run goes on: they do not change what is computed.
_FREE = (
    "data.num_workers",
    "run.log_every_steps",
    "run.save_every_steps",
    "run.keep_every_epochs",
    "run.output",
)


@contextmanager
def scratch_output(config: Config) -> Iterator[Config]:
    """For a dry run, the recipe with a temporary output folder; else the recipe as it is."""
    if not config.run.dry:
        yield config
        return
    with TemporaryDirectory() as folder:
        yield replace(config, run=replace(config.run, output=folder))


def open_run_folder(config: Config, dist: DistContext) -> tuple[Path, Checkpoint | None]:
    """Make ``OUTPUT/NAME``, or find the checkpoint of a run to go on with. Call on all ranks.

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
                f"{'; '.join(lines)}. Give this run another name, or delete the folder"
            )
    dist.barrier()  # nobody writes before everybody has looked
    if dist.is_main:
        remove_partial(folder)
        write_text(folder / "config.yaml", config_to_yaml(config))
    return folder, checkpoint
