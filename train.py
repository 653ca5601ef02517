"""Train a network: recipe + prepared data + structure maps -> runs/NAME.

The same command starts a run and goes on with one that was stopped::

    python train.py --config configs/synthetic.yaml [key.sub=value ...]
    torchrun --nproc_per_node=4 train.py --config configs/synthetic.yaml
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from configs.schema import Config
from datasets.build import build_eval_loader, build_train_loader, check_structure
from datasets.encodings import StructureEncoder
from datasets.samplers import TrainBatches
from datasets.samples import Batch, prepare_inputs
from datasets.tiles import open_tile_set
from models.build import build_network, fetch_frozen_weights, frozen_identities
from models.losses import SegmentationLoss, build_loss
from utils.checkpoint import Identity
from utils.config import config_to_dict, load_config_from_command_line
from utils.distributed import DistContext, distributed_session
from utils.ema import Ema
from utils.errors import run_command
from utils.evaluation import Predictor, evaluate
from utils.metrics import scores
from utils.optim import build_optimizer, build_schedule, set_learning_rate
from utils.precision import Precision
from utils.run_folder import draw_curves, open_run_folder
from utils.run_log import RunLog
from utils.seed import seed_torch
from utils.train_state import TrainState


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a training run needs, built."""

    config: Config
    folder: Path
    state: TrainState
    loader: DataLoader[Batch]
    batches: TrainBatches
    val_loader: DataLoader[Batch]
    encoder: StructureEncoder
    loss: SegmentationLoss
    lr_at: Callable[[int], float]
    predictor: Predictor
    log: RunLog


def train(run: Run) -> None:
    """All epochs, from wherever the run stands. Call on all ranks."""
    state, num_epochs = run.state, run.config.optim.num_epochs
    while state.epoch < num_epochs:
        train_one_epoch(run)
        if state.epoch % run.config.eval.every_epochs and state.epoch < num_epochs:
            continue
        with state.evaluation_weights():
            result = scores(evaluate(run.predictor, run.val_loader, state.num_classes, state.dist))
        is_best = state.is_best(result.miou)
        run.log.evaluation(state, result, is_best)
        state.save(run.folder, best=is_best)


def train_one_epoch(run: Run) -> None:
    """The rest of the current epoch. Call on all ranks."""
    state = run.state
    state.network.train()
    run.batches.set_position(state.epoch, state.step_in_epoch)
    for batch in (loaded.to(state.dist.device) for loaded in run.loader):
        image, structure, target = prepare_inputs(batch, run.encoder)
        set_learning_rate(state.optimizer, lr := run.lr_at(state.step))
        with state.precision.autocast():
            logits = state.ddp_network(image, structure)
        segments = run.encoder.segments(batch.maps) if run.loss.needs_segments else None
        losses = run.loss(logits, target, run.loss.measure_batch(target, state.dist), segments)
        state.take_step(losses["loss"], run.config.optim.clip_norm)
        run.log.step(state.step, losses, lr, batch.tile_ids)
        if state.step % run.config.run.save_every_steps == 0:
            state.save(run.folder)
    state.count_epoch()


def build_run(config: Config, dist: DistContext) -> Run:
    """Check the data, build everything, and restore last.pth if the run folder has one."""
    data, optim = config.data, config.optim
    tile_set = open_tile_set(Path(data.root))
    maps = check_structure(tile_set, config.structure, [data.train_split, data.val_split])
    loader, batches = build_train_loader(config, tile_set, dist)
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
    state = TrainState(
        network=network,
        optimizer=build_optimizer(network, lr=optim.lr, weight_decay=optim.weight_decay),
        precision=precision,
        ema=Ema(network, optim.ema_decay) if optim.ema_decay > 0 else None,
        identity=Identity(
            recipe=config_to_dict(config),
            dataset=tile_set.name,
            classes=list(tile_set.classes),
            palette=[list(color) for color in tile_set.palette],
            maps={store: asdict(recipe) for store, recipe in maps.items()},
            frozen=frozen_identities(network),
            selected_on=data.val_split,
        ),
        dist=dist,
    )
    seed_torch(config.run.seed, 1 + dist.rank)  # the ranks drop different paths
    state.restore(checkpoint, config.run.seed)
    return Run(
        config=config,
        folder=folder,
        state=state,
        loader=loader,
        batches=batches,
        val_loader=build_eval_loader(config, tile_set, data.val_split, dist),
        encoder=encoder,
        loss=build_loss(optim, len(tile_set.classes)).to(dist.device),
        lr_at=build_schedule(optim, batches.num_batches),
        predictor=Predictor(network, encoder, precision, config.eval, dist.device),
        log=RunLog(folder, state, config, batches.num_batches),
    )


def main() -> None:
    """Command line."""
    config = load_config_from_command_line(__doc__.split("\n\n")[0], fetch_frozen_weights)
    with distributed_session(config.run.device) as dist:
        run = build_run(config, dist)
        run.log.begin(run.state, run.folder)
        train(run)
        draw_curves(run.folder, dist)
        run.log.end(run.state, run.folder)


if __name__ == "__main__":
    run_command(main)
