"""Generate structure maps: data/NAME/images -> data/NAME/modalities/STORE.

An interrupted run goes on where it stopped when the same command is given again::

    python generate.py --config configs/synthetic.yaml [key.sub=value ...]
"""

from pathlib import Path

import torch
from tqdm import tqdm

from configs.schema import Config
from datasets.encodings import mean_color
from datasets.modalities import (
    MapRecipe,
    begin_store,
    is_done,
    map_path,
    map_settings,
    read_map,
    store_folder,
    write_manifest,
    write_map,
)
from datasets.tiles import TileSet, open_tile_set
from models.generators.build import StructureGenerator, build_generator
from utils.config import load_config_from_command_line
from utils.contact_sheet import Cell, contact_sheet
from utils.distributed import DistContext, distributed_session
from utils.errors import DataError, UserError, run_command
from utils.files import sha256_of, write_png
from utils.visualize import colorize_segments, draw_boundaries

NUM_SHEET_ROWS = 4


def generate_store(config: Config, name: str, tile_set: TileSet, dist: DistContext) -> None:
    """Complete the store of one modality. Call on all ranks; they share the tiles.

    Raises:
        DataError: the store was begun with other settings, or some images could not be used.
    """
    settings = config.structure.selected()[name]
    generator = build_generator(name, settings, dist.device)
    recipe = MapRecipe(
        generator=name,
        settings=map_settings(settings),
        weights_sha256=generator.weights_sha256,
    )
    folder = store_folder(tile_set.root, settings.store)
    if dist.is_main:
        begin_store(folder, recipe)
    dist.barrier()
    sources: dict[str, str] = {}
    failures: dict[str, str] = {}
    tile_ids = list(tile_set.tiles)[dist.rank :: dist.world_size]
    for tile_id in tqdm(tile_ids, desc=settings.store, unit="tile", disable=not dist.is_main):
        try:
            sources[tile_id] = generate_map(generator, recipe, folder, tile_set, tile_id)
        except UserError as error:
            failures[tile_id] = str(error)
    gathered = dist.gather((sources, failures))
    failures = {tile_id: text for _, part in gathered for tile_id, text in part.items()}
    if failures:
        lines = "".join(f"\n  {tile_id}: {text}" for tile_id, text in failures.items())
        raise DataError(
            f"{len(failures)} of {len(tile_set.tiles)} maps could not be made; the others are "
            f"kept. Mend these and run the same command again:{lines}"
        )
    if dist.is_main:
        sources = {tile_id: digest for part, _ in gathered for tile_id, digest in part.items()}
        write_manifest(folder, recipe, dict(sorted(sources.items())))
        draw_sheet(tile_set, folder)
        print(f"{len(sources)} maps in {folder}, contact sheet in {folder}/contact_sheet.png")


def generate_map(
    generator: StructureGenerator,
    recipe: MapRecipe,
    folder: Path,
    tile_set: TileSet,
    tile_id: str,
) -> str:
    """Make the map of one tile unless it is done; return the SHA-256 of the tile's image."""
    source = sha256_of(tile_set.image_path(tile_id))
    if not is_done(folder, tile_id, source, recipe):
        ids = generator.generate(tile_set.read_image(tile_id))
        write_map(folder, tile_id, ids, source, recipe)
    return source


def draw_sheet(tile_set: TileSet, folder: Path) -> None:
    """Draw a few images beside their maps to ``contact_sheet.png`` in the store."""
    tile_ids = list(tile_set.tiles)
    chosen = tile_ids[:: -(-len(tile_ids) // NUM_SHEET_ROWS)]
    rows = []
    for tile_id in chosen:
        image, ids = tile_set.read_image(tile_id), read_map(map_path(folder, tile_id))
        picture = torch.from_numpy(image).movedim(-1, 0).unsqueeze(0) / 255
        means = mean_color(picture, torch.from_numpy(ids).unsqueeze(0))[0]
        rows.append(
            [
                Cell(picture=image),
                Cell(picture=colorize_segments(ids), smooth=False),
                Cell(picture=draw_boundaries(image, ids)),
                Cell(picture=(255 * means).byte().movedim(0, -1).numpy(), smooth=False),
            ]
        )
    titles = ["image", "segments", "borders", "mean colour"]
    write_png(folder / "contact_sheet.png", contact_sheet(rows, titles, chosen))


def main() -> None:
    """Command line."""
    config = load_config_from_command_line(__doc__.split("\n\n")[0])
    with distributed_session(config.run.device) as dist:
        tile_set = open_tile_set(Path(config.data.root))
        for name in config.structure.selected():
            generate_store(config, name, tile_set, dist)


if __name__ == "__main__":
    run_command(main)
