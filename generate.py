"""Generate structure maps: data/NAME/images -> data/NAME/modalities/STORE.

The same command resumes an interrupted run. Any number of processes share the work, started
together or, as shards, one by one at any time::

    python generate.py --config configs/synthetic.yaml [key.sub=value ...]
    torchrun --nproc_per_node=4 generate.py --config configs/synthetic.yaml
    python generate.py --config configs/synthetic.yaml --shard 3/8
"""

import argparse
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from configs.schema import Config, GeneratorConfig
from datasets.contact_sheets import draw_common_sheet, draw_store_sheet
from datasets.structure_fits import store_fit
from datasets.structure_generation import Shard, Store, complete_store
from datasets.structure_maps import FIT, MapRecipe, map_settings, store_folder
from datasets.tile_set import TileSet, open_tile_set
from models.structure.build import build_generator, fetch_generator_weights
from models.structure.generator import FittedGenerator, StructureGenerator
from utils.config import load_config, recipe_parser
from utils.distributed import DistContext, distributed_session
from utils.errors import run_command
from utils.malloc import keep_freed_memory

PATIENCE = timedelta(days=14)  # longest wait of a rank that has finished for the slowest one
_SHARD_HELP = (
    "make only the I-th of N shards, independently of the others; when all are complete, the same "
    "command without --shard finishes the store"
)


def generate_store(
    config: Config, name: str, tile_set: TileSet, dist: DistContext, shard: Shard | None = None
) -> None:
    """Complete the store of one modality, or a shard of it. Call on all ranks: they share the work.

    Raises:
        DataError: the store was begun with other settings, or some maps could not be made.
    """
    settings = config.structure.selected()[name]
    generator = build_generator(name, settings, dist.device)
    folder = store_folder(tile_set.root, settings.store)
    if isinstance(generator, FittedGenerator):
        wanted = asdict(_recipe(name, settings, generator))
        fit = store_fit(folder, wanted, tile_set, config.data.train_split, generator.fit, dist)
        generator.use(fit, str(folder / FIT))
    recipe = _recipe(name, settings, generator)
    store = Store(tile_set=tile_set, folder=folder, recipe=recipe, join=settings.join_tiles)
    num_made = complete_store(
        store,
        generator.generate_batch,
        dist,
        images_per_batch=generator.images_per_batch,
        shard=shard,
    )
    if dist.is_main and shard is not None:
        print(
            f"{folder}: shard {shard.index} of {shard.count} is complete, {num_made} maps made; "
            "when all shards are, run the same command without --shard to finish the store"
        )
    elif dist.is_main:
        draw_store_sheet(tile_set, folder)
        print(
            f"{len(tile_set.tiles)} maps in {folder}, contact sheet in {folder}/contact_sheet.png"
        )


def _recipe(name: str, settings: GeneratorConfig, generator: StructureGenerator) -> MapRecipe:
    return MapRecipe(
        generator=name,
        settings=map_settings(settings),
        weights_sha256=generator.weights_sha256,
    )


def parse_shard(text: str) -> Shard:
    """Parse the argument of ``--shard 3/8``."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, e.g. 3/8, not '{text}'")
    return Shard(index=int(index), count=int(count))


def main() -> None:
    """Command line."""
    parser = recipe_parser(__doc__.split("\n\n")[0])
    parser.add_argument("--shard", type=parse_shard, metavar="I/N", help=_SHARD_HELP)
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    with distributed_session(config.run.device, PATIENCE) as dist:
        if dist.device.type == "cpu":
            keep_freed_memory()
        if args.download and dist.local_rank == 0:
            fetch_generator_weights(config.structure)
        dist.barrier()
        tile_set = open_tile_set(Path(config.data.root))
        for name in config.structure.selected():
            generate_store(config, name, tile_set, dist, args.shard)
        if dist.is_main and args.shard is None:
            if (sheet := draw_common_sheet(tile_set, config.structure)) is not None:
                print(f"all modalities side by side in {sheet}")


if __name__ == "__main__":
    run_command(main)
