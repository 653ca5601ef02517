"""Train a network: recipe + prepared data + structure maps -> runs/NAME.

The same command starts a run and goes on with one that was stopped::

    python train.py --config configs/synthetic.yaml [key.sub=value ...]
    torchrun --nproc_per_node=4 train.py --config configs/synthetic.yaml

``run.dry=true`` builds everything, tries it, and says what the run would take.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from configs.schema import Config
from datasets.dataset import Batch, prepare_inputs
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader, build_train_loader, check_structure
from datasets.samplers import TrainBatches
from datasets.tile_set import open_tile_set
from models.build import build_network, fetch_frozen_weights, frozen_identities
from models.losses import SegmentationLoss, build_loss
from utils.config import config_to_dict, load_config_from_command_line
from utils.distributed import DistContext, distributed_session
from utils.errors import run_command
from utils.evaluation.evaluate import Predictor
from utils.evaluation.protocols import plan_split_labels
from utils.malloc import keep_freed_memory
from utils.precision import Precision
from utils.training.checkpoint import Identity, begin_with, check_split
from utils.training.dry_run import describe, measure
from utils.training.log import RunLog
from utils.training.optim import build_optimizer, build_schedule, set_learning_rate
from utils.training.run_folder import open_run_folder, record_environment, scratch_output
from utils.training.run_page import draw_run_page
from utils.training.schedule import Rhythm
from utils.training.signals import StopRequest
from utils.training.state import Ema, TrainState, seed_torch
from utils.training.validation import Validation, ValidationView


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a training run needs, built."""

    config: Config
    folder: Path
    state: TrainState
    loader: DataLoader[Batch]
    batches: TrainBatches
    encoder: StructureEncoder
    loss: SegmentationLoss
    lr_at: Callable[[int], float]
    validation: Validation
    rhythm: Rhythm
    log: RunLog
    notes: list[str]  # what to say when it begins
    stop: StopRequest


def train(run: Run) -> None:
    """All epochs, from wherever the run stands. Call on all ranks."""
    state, rhythm = run.state, run.rhythm
    while not rhythm.is_over(state.epoch, state.num_stale):
        train_one_epoch(run)
        copies = rhythm.kept_copies(state.epoch)
        if rhythm.is_validated(state.epoch):
            copies += ["best.pth"] * run.validation()
        if copies or rhythm.is_validated(state.epoch):
            state.save(run.folder, *copies)


def train_one_epoch(run: Run) -> None:
    """The rest of the current epoch. Call on all ranks."""
    state, num_parts = run.state, run.config.optim.accumulate
    state.network.train()
    run.batches.set_position(state.epoch, state.step_in_epoch)
    for batch in (loaded.to(state.dist.device) for loaded in run.log.timed(run.loader)):
        set_learning_rate(state.optimizer, lr := run.lr_at(state.step))
        counts = state.dist.mean(run.loss.counts(batch.target))
        losses: dict[str, Tensor] = {}
        for number, part in enumerate(batch.split(num_parts), 1):
            image, structure, target = prepare_inputs(part, run.encoder)
            segments = run.encoder.segments(part.maps) if run.loss.needs_segments else None
            with state.micro_batch(is_last=number == num_parts):
                with state.precision.autocast():
                    logits = state.ddp_network(image, structure)
                terms = run.loss(logits, target, counts, segments)
                state.precision.backward(terms["loss"])
            losses = {name: losses.get(name, 0) + term.detach() for name, term in terms.items()}
        state.take_step(run.config.optim.clip_norm, losses["loss"], batch.tile_ids)
        run.log.step(state.step, losses, lr, batch.tile_ids)
        if (stop := run.stop.came(state.step)) or state.step % run.config.run.save_every_steps == 0:
            state.save(run.folder)
        if stop:
            run.stop.leave()
    if run.rhythm.is_validated(state.epoch + 1):
        state.save(run.folder)  # a kill while validating then repeats the validation alone
    state.count_epoch()


def rehearse(run: Run) -> None:
    """The last steps of two epochs and one validation image, timed. Call on all ranks."""

    def step() -> None:
        run.state.step_in_epoch = run.batches.num_batches - 1
        train_one_epoch(run)

    times = measure(step, run.validation.try_one, run.log, run.state.dist)
    run.log.say(describe(times, run.rhythm, run.batches.num_batches, run.validation.num_images))
    run.log.close()


def build_run(config: Config, dist: DistContext, stop: StopRequest | None = None) -> Run:
    """Check the data, build everything, and restore last.pth if the run folder has one."""
    data, optim = config.data, config.optim
    tile_set = open_tile_set(Path(data.root))
    maps = check_structure(tile_set, config.structure, [data.train_split, data.val_split])
    loader, batches = build_train_loader(config, tile_set, dist)
    labels = plan_split_labels(tile_set, data.val_split, config.eval.labels)
    val_loader = build_eval_loader(config, tile_set, data.val_split, dist, labels.read)
    encoder = StructureEncoder(config.structure)
    precision = Precision(config.run.precision, dist.device)
    seed_torch(config.run.seed)
    network = build_network(
        config.model,
        num_classes=len(tile_set.classes),
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        frozen_dtype=precision.dtype,
    ).to(dist.device)
    folder, checkpoint = open_run_folder(config, dist)
    if checkpoint is not None:
        check_split(checkpoint, tile_set.identity(), data.root)
    notes = begin_with(config.run.fine_tune, network) if checkpoint is None else []
    state = TrainState(
        network=network,
        optimizer=build_optimizer(network, optim),
        precision=precision,
        ema=Ema(network, optim.ema_decay) if optim.ema_decay > 0 else None,
        identity=Identity(
            recipe=config_to_dict(config),
            **tile_set.identity(),
            maps={store: asdict(recipe) for store, recipe in maps.items()},
            frozen=frozen_identities(network),
            selected_on=data.val_split,
            selected_by=config.eval.metric,
        ),
        dist=dist,
        compiled=config.run.compile,
    )
    seed_torch(config.run.seed, 1 + dist.rank)  # the ranks drop different paths
    state.restore(checkpoint, config.run.seed)
    record_environment(folder, state, optim)
    log = RunLog(folder, state, config, batches.num_batches)
    predictor = Predictor(network, encoder, precision, config.eval, dist.device)
    view = ValidationView(encoder, state, len(val_loader))
    return Run(
        config=config,
        folder=folder,
        state=state,
        loader=loader,
        batches=batches,
        encoder=encoder,
        loss=build_loss(optim, len(tile_set.classes)).to(dist.device),
        lr_at=build_schedule(optim, batches.num_batches),
        validation=Validation(state, predictor, val_loader, labels, view, log, folder),
        rhythm=Rhythm(config),
        log=log,
        notes=notes,
        stop=stop or StopRequest(dist, config.run.log_every_steps),
    )


def main() -> None:
    """Command line."""
    notes: list[str] = []
    config = load_config_from_command_line(__doc__.split("\n\n")[0], fetch_frozen_weights, notes)
    with (
        distributed_session(config.run.device, deterministic=config.run.deterministic) as dist,
        StopRequest(dist, config.run.log_every_steps) as stop,
        scratch_output(config) as config,
    ):
        if dist.device.type == "cpu":
            keep_freed_memory()
        run = build_run(config, dist, stop)
        run.log.begin(run.state, run.folder, [*notes, *run.notes])
        if config.run.dry:
            return rehearse(run)
        train(run)
        draw_run_page(run.folder, run.state)
        run.log.end(run.state, run.folder)


if __name__ == "__main__":
    run_command(main)
