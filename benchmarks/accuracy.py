"""Accuracy of ours and of opponents after equal wall time of training, from one list.

::

    python benchmarks/accuracy.py --config configs/dubai.yaml --minutes 20 --seeds 0,1,2 \
        --vit vit_small_patch14_dinov2 --vit-weights FILE [--only NAME,...] [key.sub=value ...]

All candidates have the recipe's data, loader, augmentation, loss, decay, averaging of weights and
sliding windows over whole source images. Each trains for the number of steps that fills the
minutes: the seconds a step of all are measured first, in turns, with nothing beside them, and the
numbers of steps follow, so that the results do not depend on what else the machine does later. The
warm-up is 5 % of the steps. Frozen ViTs are computed in bfloat16.

One JSON line per run, then a Markdown table. Finished runs are kept in ``--output``, one file for
each candidate, seed and settings: the same command again trains only what is missing. The files are
reports that ``eval.py compare`` reads. Of the code they know the names and shapes of the parameters
alone: after another change of a network, delete its files.
"""

import argparse
import hashlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench
from benchmarks.opponents import CANDIDATES
from configs.schema import GENERATORS, Config
from datasets.dataset import prepare_inputs
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader, build_train_loader, check_structure
from datasets.tile_set import TileSet, open_tile_set
from models.frozen_vit import FrozenViT
from models.losses import SegmentationLoss
from utils.arguments import positive_int
from utils.config import config_to_dict, load_config
from utils.console import percent
from utils.distributed import DistContext, distributed_session
from utils.errors import ConfigError, run_command
from utils.evaluation.bootstrap import sample
from utils.evaluation.compare import Report, Setting
from utils.evaluation.evaluate import Predictor, TileAssembler, evaluate
from utils.evaluation.metrics import scores
from utils.evaluation.protocols import indices_left_out, plan_split_labels
from utils.files import read_json, remembered, to_json, write_json
from utils.malloc import keep_freed_memory
from utils.precision import Precision
from utils.reports.tables import INTERVAL, span
from utils.training.optim import build_optimizer, learning_rate, set_learning_rate
from utils.training.state import Ema, NonFiniteGuard, seed_torch

WARMUP_SHARE = 0.05  # of the steps
NUM_UNTIMED, NUM_TIMED = 2, 10  # steps of the measurement of speed

# A file of a candidate, from its part (a seed, or the speed) and settings.
Place = Callable[..., Path]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Untrained candidate with everything that training and scoring take."""

    config: Config
    tile_set: TileSet
    encoder: StructureEncoder
    precision: Precision
    network: nn.Module
    dist: DistContext


def build_trial(name: str, config: Config, dist: DistContext) -> Trial:
    """Build a candidate with the weights of the recipe's seed."""
    tile_set = open_tile_set(Path(config.data.root))
    splits: list[str] = [config.data.train_split, config.data.val_split]
    check_structure(tile_set, config.structure, splits)
    encoder = StructureEncoder(config.structure)
    seed_torch(config.run.seed)
    network = CANDIDATES[name].build(config, encoder, len(tile_set.classes))
    return Trial(
        config=config,
        tile_set=tile_set,
        encoder=encoder,
        precision=Precision(config.run.precision, dist.device),
        network=network.to(dist.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        dist=dist,
    )


def training(trial: Trial, num_steps: int) -> Iterator[None]:
    """Train, one step at a time; at the end the network has its averaged weights."""
    config, network, dist = trial.config, trial.network, trial.dist
    num_warmup = min(max(1, round(WARMUP_SHARE * num_steps)), num_steps - 1)
    optim = replace(  # the epochs of the schedule are steps, and the loader has a single epoch
        config.optim,
        steps_per_epoch=num_steps,
        num_epochs=num_steps,
        warmup_epochs=num_warmup,
        accumulate=1,
    )
    loader, _ = build_train_loader(replace(config, optim=optim), trial.tile_set, dist)
    loss_of = SegmentationLoss(optim, len(trial.tile_set.classes)).to(dist.device)
    optimizer, ema = build_optimizer(network, optim), Ema(network, optim.ema_decay)
    guard = NonFiniteGuard(dist)
    seed_torch(config.run.seed, 1)
    network.train()
    for step, loaded in enumerate(loader):
        batch = loaded.to(dist.device)
        set_learning_rate(optimizer, learning_rate(step, optim, steps_per_epoch=1))
        inputs, target = prepare_inputs(batch, trial.encoder)
        segments = trial.encoder.segments(batch.maps) if loss_of.needs_segments else None
        with trial.precision.autocast():
            logits = network(*inputs)
        loss = loss_of(logits, target, loss_of.counts(target), segments)["loss"]
        trial.precision.backward(loss)
        trial.precision.step(network, optimizer, optim.clip_norm)
        ema.update(network, step + 1)
        guard.note(step + 1, loss, batch.tile_ids)
        yield
    guard.check_losses()
    network.load_state_dict(ema.average, strict=False)  # frozen weights are not in it


def seconds_per_step(trials: Sequence[Trial]) -> list[float]:
    """Return the median durations of training steps, loading and loss included.

    The trials take turns, so that a machine that is slower for a while is slower for all.
    """
    bench = Bench(trials[0].dist.device.type, quick=False)
    steps = [training(trial, NUM_UNTIMED + NUM_TIMED) for trial in trials]
    rounds = [
        [bench.seconds(partial(next, own)) for own in steps] for _ in range(NUM_UNTIMED + NUM_TIMED)
    ]
    return [statistics.median(times) for times in zip(*rounds[NUM_UNTIMED:], strict=True)]


def confusions_of(trial: Trial) -> dict[str, Tensor]:
    """Return the confusion matrix of each source image of the validation split, by name."""
    config, tile_set, dist = trial.config, trial.tile_set, trial.dist
    trial.network.eval()
    labels = plan_split_labels(tile_set, config.data.val_split, config.eval.labels)
    loader = build_eval_loader(config, tile_set, config.data.val_split, dist, labels.read)
    predictor = Predictor(trial.network, trial.encoder, trial.precision, config.eval, dist.device)
    found: dict[str, Tensor] = {}

    def add(image: TileAssembler) -> None:
        found[image.source] = image.confusions[labels.headline]

    evaluate(predictor, loader, labels, len(tile_set.classes), dist, on_image=add)
    return dict(sorted(found.items()))


def run_trial(name: str, trial: Trial, num_steps: int, seconds: float) -> dict[str, Any]:
    """Train and score a candidate; the content of a report, with what the table states."""
    config, tile_set, classes = trial.config, trial.tile_set, trial.tile_set.classes
    start, title = time.perf_counter(), f"{name}, seed {config.run.seed}"
    for _ in tqdm(training(trial, num_steps), title, num_steps, leave=False):
        pass
    duration_s = time.perf_counter() - start
    confusions = confusions_of(trial)
    found = scores(
        torch.stack([*confusions.values()]).sum(0),
        indices_left_out(config.eval.mean_without, classes),
    )
    parameters = [*trial.network.parameters()]
    vits = [m.identity for m in trial.network.modules() if isinstance(m, FrozenViT)]
    header = {
        "candidate": name,
        "seed": config.run.seed,
        "steps": num_steps,
        "seconds_per_step": seconds,
        "training_s": duration_s,
        "trainable_m": sum(p.numel() for p in parameters if p.requires_grad) / 1e6,
        "frozen_m": sum(p.numel() for p in parameters if not p.requires_grad) / 1e6,
        "lr": config.optim.lr,
        "vit": vits[0] if vits else None,
        "split": config.data.val_split,
        "lists": f"{tile_set.split_name}, SHA-256 {tile_set.split_sha256}",
        "labels": config.eval.labels,
        "machine": Bench(trial.dist.device.type, quick=False).machine,
    }
    content = {
        "header": header,
        "classes": [{"name": class_name} for class_name in classes],
        "mean_without": list(config.eval.mean_without),
        **{key: getattr(found, key) for key in ("miou", "mf1", "oa", "kappa")},
        "iou": dict(zip(classes, found.iou, strict=True)),
        "sources": [{"name": key, "confusion": c.tolist()} for key, c in confusions.items()],
        "recipe": config_to_dict(config),
    }
    return to_json(content)


def place_of(folder: Path, name: str, trial: Trial) -> Place:
    """Return the function that names the files of a candidate in a folder.

    A file is that of the recipe, the split, the names and shapes of the parameters, and the
    settings given with its part.
    """
    config = trial.config
    recipe = config_to_dict(config)
    for generator in {*GENERATORS} - {*config.structure.selected()}:
        recipe["structure"].pop(generator, None)
    recipe["run"] = {"precision": config.run.precision}
    layout = {key: [*value.shape] for key, value in trial.network.state_dict().items()}
    common = {"recipe": recipe, "split": trial.tile_set.split_sha256, "layout": layout}

    def path(part: object, **settings: object) -> Path:
        text = json.dumps(common | settings, sort_keys=True)
        return folder / f"{name}-{part}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"

    return path


def stored_speeds(trials: Mapping[str, Trial], places: Mapping[str, Place]) -> dict[str, float]:
    """Return the seconds a step of each candidate; those that the folder lacks are measured."""
    threads = torch.get_num_threads()
    paths = {name: place("speed", threads=threads) for name, place in places.items()}
    missing = [name for name, path in paths.items() if not path.is_file()]
    found = seconds_per_step([trials[name] for name in missing]) if missing else []
    for name, seconds in zip(missing, found, strict=True):
        write_json(paths[name], seconds)
    return {name: read_json(path) for name, path in paths.items()}


def stored_runs(
    name: str,
    configs: Sequence[Config],
    dist: DistContext,
    place: Place,
    num_steps: int,
    seconds: float,
) -> Iterator[Report]:
    """Yield the result of a candidate for each seed, trained only if the folder lacks it."""
    for config in configs:

        def run(config: Config = config) -> dict[str, Any]:
            return run_trial(name, build_trial(name, config, dist), num_steps, seconds)

        path = place(config.run.seed, steps=num_steps)
        yield Report(path=path, content=remembered(path, run))


def json_line(report: Report) -> str:
    """Return the result of a run without its matrices and recipe."""
    kept = {key: report.content[key] for key in ("header", "miou", "mf1", "oa", "iou")}
    return json.dumps({**kept.pop("header"), **kept})


def table(settings: Sequence[Setting]) -> str:
    """Return the results in Markdown: means over seeds, standard deviations, and intervals.

    With several seeds the interval covers the choice of images and seeds, with one that of images.
    """
    head = ["candidate", "trainable M", "frozen M", "steps", "seconds a step", "seeds", "mIoU"]
    rows = [[*head, INTERVAL, "mF1", "OA"], ["---"] * (len(head) + 3)]
    for number, setting in enumerate(settings):
        reports = setting.reports
        header, left_out = reports[0].content["header"], reports[0].content["mean_without"]
        without = indices_left_out(left_out, reports[0].classes)
        interval = sample(setting.confusions, without, number).intervals[0]
        millions = [f"{header[key]:.3g}" for key in ("trainable_m", "frozen_m")]
        costs = [str(header["steps"]), f"{header['seconds_per_step']:.3g}", str(len(reports))]
        miou, mf1, oa = (
            _mean_and_spread([report.content[key] for report in reports])
            for key in ("miou", "mf1", "oa")
        )
        rows.append([setting.name, *millions, *costs, miou, span(interval), mf1, oa])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {percent(statistics.stdev(values))}" if len(values) > 1 else ""
    return percent(statistics.mean(values)) + spread


def chosen(args: argparse.Namespace) -> list[str]:
    """Return the names of the candidates that can run; the others are said to be skipped.

    Raises:
        ConfigError: the list has no such name, or nothing is left.
    """
    names = args.only.split(",") if args.only else [*CANDIDATES]
    if unknown := {*names} - {*CANDIDATES}:
        raise ConfigError(f"no candidate {', '.join(unknown)}; there are {', '.join(CANDIDATES)}")
    kept = []
    for name in names:
        candidate = CANDIDATES[name]
        if importlib.util.find_spec(candidate.package) is None:
            print(f"skipped {name}: {candidate.package} is not installed", file=sys.stderr)
        elif candidate.has_vit and args.vit is None:
            print(f"skipped {name}: needs --vit", file=sys.stderr)
        else:
            kept.append(name)
    if not kept:
        raise ConfigError("no candidate is left")
    return kept


def recipe_of(name: str, seed: str, args: argparse.Namespace) -> Config:
    """Return the recipe of a candidate; the command line's overrides come last."""
    own = CANDIDATES[name].overrides(args.vit, args.vit_weights)
    return load_config(args.config, [*own, *args.overrides, f"run.seed={seed}"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/dubai.yaml"))
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each run")
    parser.add_argument("--steps", type=positive_int, help="train so many steps instead")
    parser.add_argument(
        "--seconds-per-step", type=float, help="taken instead of a measurement, with --only"
    )
    parser.add_argument("--seeds", default="0", help="0,1,2")
    parser.add_argument("--only", help=f"some of {','.join(CANDIDATES)}")
    parser.add_argument("--vit", help="timm name of the frozen ViT; none: candidates without")
    parser.add_argument("--vit-weights", help="its file; 'random' for tests")
    parser.add_argument("--output", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    args = parser.parse_intermixed_args()
    names = chosen(args)
    recipes = {
        name: [recipe_of(name, seed, args) for seed in args.seeds.split(",")] for name in names
    }
    with distributed_session(recipes[names[0]][0].run.device) as dist:
        if dist.device.type == "cpu":
            keep_freed_memory()
        settings = []
        trials = {name: build_trial(name, configs[0], dist) for name, configs in recipes.items()}
        places = {name: place_of(args.output, name, trial) for name, trial in trials.items()}
        if args.seconds_per_step:
            speeds = dict.fromkeys(names, args.seconds_per_step)
        else:
            speeds = stored_speeds(trials, places)
        del trials
        for name, configs in recipes.items():
            num_steps = args.steps or max(1, round(args.minutes * 60 / speeds[name]))
            reports = []
            for report in stored_runs(name, configs, dist, places[name], num_steps, speeds[name]):
                reports.append(report)
                print(json_line(report), flush=True)
            settings.append(Setting(name=name, reports=tuple(reports)))
    print(f"\n{table(settings)}")


if __name__ == "__main__":
    run_command(main)
