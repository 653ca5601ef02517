"""Train a network: recipe + prepared data + structure maps -> runs/NAME.

The same command starts a run and resumes one that was stopped::

    python train.py --config configs/synthetic.yaml [key.sub=value ...]
    torchrun --nproc_per_node=4 train.py --config configs/synthetic.yaml

``run.dry=true`` builds everything, tries every part, and estimates the duration of the run.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from configs.schema import Config
from datasets.dataset import Batch, prepare_inputs
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader, build_train_loader, check_structure
from datasets.samplers import TrainBatches
from datasets.structure_fits import read_fits
from datasets.structure_maps import MapRecipe
from datasets.tile_set import TileSet, open_tile_set
from models.build import build_network, fetch_frozen_weights, frozen_identities
from models.losses import SegmentationLoss, sum_terms
from utils.config import batch_notes, config_to_dict, load_config, recipe_parser
from utils.distributed import DistContext, distributed_session
from utils.errors import run_command
from utils.evaluation.evaluate import Predictor
from utils.evaluation.protocols import plan_split_labels
from utils.malloc import keep_freed_memory
from utils.precision import Precision
from utils.training.checkpoint import Identity, begin_with, check_split
from utils.training.dry_run import describe, measure
from utils.training.log import RunLog
from utils.training.optim import build_optimizer, learning_rate, set_learning_rate
from utils.training.run_folder import open_run_folder, record_environment, scratch_output
from utils.training.run_page import draw_run_page
from utils.training.schedule import ValidationSchedule
from utils.training.signals import StopRequest
from utils.training.state import Ema, TrainState, seed_torch
from utils.training.validation import Validation


@dataclass(frozen=True, kw_only=True)
class Run:
    """Parts of a training run."""

    config: Config
    folder: Path
    state: TrainState
    loader: DataLoader[Batch]
    batches: TrainBatches
    encoder: StructureEncoder
    loss: SegmentationLoss
    validation: Validation
    schedule: ValidationSchedule
    log: RunLog
    notes: list[str]  # lines for the log
    stop: StopRequest


def train(run: Run) -> None:
    """Train all remaining epochs. Call on all ranks."""
    state, schedule = run.state, run.schedule
    while not schedule.is_over(state.epoch, state.num_stale):
        train_one_epoch(run)
        copies = schedule.kept_copies(state.epoch)
        if schedule.is_validated(state.epoch):
            copies += ["best.pth"] * run.validation()
        if copies or schedule.is_validated(state.epoch):
            state.save(run.folder, *copies)


def train_one_epoch(run: Run) -> None:
    """Train the rest of the current epoch. Call on all ranks."""
    state, num_parts = run.state, run.config.optim.accumulate
    state.network.train()
    run.batches.set_position(state.epoch, state.step_in_epoch)
    for batch in (loaded.to(state.dist.device) for loaded in run.log.wait_for_data(run.loader)):
        lr = learning_rate(state.step, run.config.optim, run.batches.num_batches)
        set_learning_rate(state.optimizer, lr)
        counts = state.dist.mean(run.loss.counts(batch.target))  # DDP averages over ranks as well
        terms: list[dict[str, Tensor]] = []
        for number, part in enumerate(batch.split(num_parts), 1):
            inputs, target = prepare_inputs(part, run.encoder)
            segments = run.encoder.segments(part.maps) if run.loss.needs_segments else None
            with state.micro_batch(is_last=number == num_parts):
                with state.precision.autocast():
                    logits = state.ddp_network(*inputs)
                values = run.loss(logits, target, counts, segments)
                state.precision.backward(values["loss"])
            terms.append({name: value.detach() for name, value in values.items()})
        losses = sum_terms(terms)
        state.take_step(run.config.optim.clip_norm, losses["loss"], batch.tile_ids)
        run.log.step(state.step, losses, lr, batch.tile_ids)
        stop_requested = run.stop.stop_requested(state.step)
        if stop_requested or state.step % run.config.run.save_every_steps == 0:
            state.save(run.folder)
        if stop_requested:
            run.stop.stop()
    if run.schedule.is_validated(state.epoch + 1):
        state.save(run.folder)  # a run killed while validating then repeats only the validation
    state.count_epoch()


def dry_run(run: Run) -> None:
    """Time the last steps of two epochs and one validation image. Call on all ranks."""

    def step() -> None:
        run.state.step_in_epoch = run.batches.num_batches - 1
        train_one_epoch(run)

    dist, num_images = run.state.dist, run.validation.num_images
    times = measure(step, run.validation.try_one, run.log, dist)
    run.log.say(describe(*times, run.schedule, run.batches.num_batches, num_images, dist.device))
    run.log.close()


def build_run(config: Config, dist: DistContext, stop: StopRequest | None = None) -> Run:
    """Check the data, build all parts, and resume from last.pth if the run folder has one."""
    tile_set = open_tile_set(Path(config.data.root))
    splits: list[str] = [config.data.train_split, config.data.val_split]
    maps = check_structure(tile_set, config.structure, splits)
    loader, batches = build_train_loader(config, tile_set, dist)
    labels = plan_split_labels(tile_set, config.data.val_split, config.eval.labels)
    val_loader = build_eval_loader(config, tile_set, config.data.val_split, dist, labels.read)
    loss = SegmentationLoss(config.optim, len(tile_set.classes)).to(dist.device)
    encoder = StructureEncoder(config.structure)
    state, folder, notes = build_state(config, tile_set, maps, encoder, dist)
    log = RunLog(folder, state, config, batches.num_batches)
    validation = Validation(
        state=state,
        predictor=Predictor(state.network, encoder, state.precision, config.eval, dist.device),
        loader=val_loader,
        labels=labels,
        log=log,
        folder=folder,
    )
    return Run(
        config=config,
        folder=folder,
        state=state,
        loader=loader,
        batches=batches,
        encoder=encoder,
        loss=loss,
        validation=validation,
        schedule=ValidationSchedule(config),
        log=log,
        notes=notes,
        stop=stop or StopRequest(dist, config.run.log_every_steps),
    )


def build_state(
    config: Config,
    tile_set: TileSet,
    maps: dict[str, MapRecipe],
    encoder: StructureEncoder,
    dist: DistContext,
) -> tuple[TrainState, Path, list[str]]:
    """Build network and optimiser, new or from the run folder's last.pth. Call on all ranks.

    Returns:
        The state, the run folder, and lines for the log.
    """
    precision = Precision(config.run.precision, dist.device)
    seed_torch(config.run.seed)  # all ranks initialise the network alike
    network = build_network(
        config.model,
        num_classes=len(tile_set.classes),
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        num_components=encoder.num_components,
        frozen_dtype=precision.frozen_dtype,
    ).to(dist.device)
    folder, checkpoint = open_run_folder(config, dist)
    if checkpoint is None:
        notes, trained_on = begin_with(config.run.fine_tune, network, tile_set.classes)
    else:
        check_split(checkpoint, tile_set.identity(), config.data.root)
        notes, trained_on = [], checkpoint.identity.trained_on
    sources = {
        tile_set.tiles[tile_id].source for tile_id in tile_set.split(config.data.train_split)
    }
    trained_on = sorted({*trained_on, *(tile_set.sources[source].sha256 for source in sources)})
    state = TrainState(
        network=network,
        optimizer=build_optimizer(network, config.optim),
        precision=precision,
        ema=Ema(network, config.optim.ema_decay) if config.optim.ema_decay > 0 else None,
        identity=Identity(
            recipe=config_to_dict(config),
            **tile_set.identity(),
            trained_on=trained_on,
            channels=tile_set.channels,
            rendering=tile_set.rendering,
            maps={store: asdict(recipe) for store, recipe in maps.items()},
            fitted=read_fits(tile_set.root, maps),
            frozen=frozen_identities(network),
            selected_on=config.data.val_split,
            selected_by=config.eval.metric,
        ),
        dist=dist,
        compiled=config.run.compile,
    )
    seed_torch(config.run.seed, 1 + dist.rank)  # each rank draws its own dropout masks
    if checkpoint is not None:
        state.restore(checkpoint, config.run.seed)
    record_environment(folder, state, config.optim)
    return state, folder, notes


def main() -> None:
    """Run the command line."""
    args = recipe_parser(__doc__.split("\n\n")[0]).parse_args()
    config = load_config(args.config, args.overrides)
    notes = batch_notes(args.config, config.optim, args.overrides)
    if args.download:
        fetch_frozen_weights(config)
    with (
        distributed_session(config.run.device, deterministic=config.run.deterministic) as dist,
        StopRequest(dist, config.run.log_every_steps) as stop,
        scratch_output(config) as config,
    ):
        if dist.device.type == "cpu":
            keep_freed_memory()
        run = build_run(config, dist, stop)
        run.log.begin([*notes, *run.notes])
        if config.run.dry:
            return dry_run(run)
        train(run)
        draw_run_page(run.folder, run.state)
        run.log.end()


if __name__ == "__main__":
    run_command(main)
