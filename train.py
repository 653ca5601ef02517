"""Train a network: recipe + prepared data + structure maps -> runs/NAME.

The same command starts a run and goes on with one that was stopped::

    python train.py --config configs/synthetic.yaml [key.sub=value ...]
    torchrun --nproc_per_node=4 train.py --config configs/synthetic.yaml
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from configs.schema import Config
from datasets.build import build_eval_loader, build_train_loader, check_structure
from datasets.encodings import StructureEncoder
from datasets.samplers import TrainBatches
from datasets.samples import Batch, prepare_inputs
from datasets.tiles import open_tile_set
from models.build import build_network, frozen_identities
from models.losses import SegmentationLoss, measure_batch
from utils.checkpoint import Identity
from utils.config import config_to_dict, load_config
from utils.distributed import DistContext, distributed_session
from utils.ema import Ema
from utils.errors import run_command
from utils.evaluation import Predictor, evaluate
from utils.metrics import scores
from utils.optim import build_optimizer, learning_rate, set_learning_rate
from utils.precision import Precision
from utils.run_folder import draw_curves, open_run_folder
from utils.run_log import RunLog
from utils.seed import seed_torch
from utils.train_state import TrainState


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a training run needs, built."""

    config: Config
    dist: DistContext
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
            num_classes = len(state.identity.classes)
            result = scores(evaluate(run.predictor, run.val_loader, num_classes, run.dist))
        is_best = state.is_best(result.miou)
        run.log.evaluation(state, result, is_best)
        state.save(run.folder, best=is_best)


def train_one_epoch(run: Run) -> None:
    """The rest of the current epoch. Call on all ranks."""
    state = run.state
    state.network.train()
    run.batches.set_position(state.epoch, state.step_in_epoch)
    for batch in run.loader:
        image, structure, target = prepare_inputs(batch.to(run.dist.device), run.encoder)
        lr = run.lr_at(state.step)
        set_learning_rate(state.optimizer, lr)
        with state.precision.autocast():
            logits = state.ddp_network(image, structure)
        losses = run.loss(logits, target, measure_batch(target, run.dist))
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
    seed_torch(config.run.seed)
    network = build_network(
        config.model,
        num_classes=len(tile_set.classes),
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
    ).to(dist.device)
    folder, checkpoint = open_run_folder(config, dist)
    precision = Precision(config.run.precision, dist.device)
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
    if checkpoint is not None:
        state.restore(checkpoint, config.run.seed)
    num_steps = optim.num_epochs * batches.num_batches
    return Run(
        config=config,
        dist=dist,
        folder=folder,
        state=state,
        loader=loader,
        batches=batches,
        val_loader=build_eval_loader(config, tile_set, data.val_split, dist),
        encoder=encoder,
        loss=SegmentationLoss(
            dice_weight=optim.dice_weight,
            cross_entropy_weight=optim.cross_entropy_weight,
            label_smoothing=optim.label_smoothing,
        ),
        lr_at=partial(
            learning_rate,
            peak=optim.lr,
            num_steps=num_steps,
            num_warmup_steps=optim.warmup_epochs * batches.num_batches,
            power=optim.poly_power,
        ),
        predictor=Predictor(network, encoder, precision, config.eval, dist.device),
        log=RunLog(folder, dist, state.step, num_steps, config.run.log_every_steps),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--config", type=Path, required=True, help="recipe, e.g. configs/dubai.yaml"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    with distributed_session(config.run.device) as dist:
        run = build_run(config, dist)
        state, log = run.state, run.log
        num_trained = sum(p.numel() for p in state.network.parameters() if p.requires_grad)
        log.say(
            f"{run.folder}: {num_trained:,} trained parameters, {run.batches.num_batches} steps an "
            f"epoch, {state.precision.name} on {dist.world_size} x {dist.device.type}, "
            f"{'resumed after' if state.step else 'from'} step {state.step}"
        )
        train(run)
        if dist.is_main:
            draw_curves(run.folder)
        log.say(
            f"done after {log.minutes():.1f} minutes: best mIoU {100 * state.best_miou:.2f} on "
            f"{state.identity.selected_on} in epoch {state.best_epoch}; {run.folder}/best.pth"
        )
        log.close()


if __name__ == "__main__":
    run_command(main)
