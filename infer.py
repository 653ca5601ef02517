"""Segment RGB images of any size: checkpoint + images -> label maps, colour maps, overlays.

Nothing else is needed: structure maps are made on the way, with the settings kept in the
checkpoint::

    python infer.py --checkpoint runs/synthetic/best.pth --input photos --output results

``OUTPUT/index``, ``OUTPUT/color`` and so on repeat the folders of the input; ``OUTPUT/index.html``
shows them. In Python: ``predict = load_predictor("best.pth")``, then ``predict(image)``.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config
from datasets.encodings import StructureEncoder
from datasets.loaders import absence_note, check_structure
from datasets.preparation.submission import submit
from datasets.structure_maps import MapRecipe, map_settings
from datasets.tile_set import open_tile_set
from models.build import load_network
from models.export import export_network
from models.structure.build import StructureGenerator, build_generator, check_generated
from utils.arguments import low_and_high
from utils.config import config_from_dict, differences
from utils.distributed import distributed_session
from utils.errors import ConfigError, DataError, UserError, run_command
from utils.evaluation.evaluate import Predictor, classes_of
from utils.files import sha256_of
from utils.inference.chunk_maps import MadeMaps, MapSource, StoredMaps
from utils.inference.chunks import Pieces
from utils.inference.inputs import Input, find_inputs, submission_names
from utils.inference.results import KINDS, kinds_of_results
from utils.inference.run import Wanted, infer_images
from utils.inference.segment import Read, segment_strips
from utils.malloc import keep_freed_memory
from utils.precision import Precision
from utils.threads import Stopwatch
from utils.training.checkpoint import Checkpoint, load_checkpoint

PATIENCE = timedelta(days=2)  # ranks meet after images that may take hours


class Segmenter:
    """A trained network with all that it needs to segment images.

    Args:
        checkpoint: from ``train.py``.
        config: its recipe, possibly overridden.
        device: where to compute.
        maps: where structure maps come from; None: they are made on the way.

    Raises:
        ConfigError: the checkpoint needs structure that cannot be made of one RGB image.
        DataError: the generator's weights are not those the checkpoint was trained with.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        device: torch.device,
        maps: MapSource | None = None,
    ) -> None:
        self.checkpoint, self.config, self.watch = checkpoint, config, Stopwatch()
        encoder = StructureEncoder(config.structure)
        self._maps = maps or made_maps(checkpoint, config, device)
        precision = Precision(config.run.precision, device)
        network = load_network(
            checkpoint,
            config.model,
            structure_channels=encoder.num_channels,
            pictures=encoder.pictures,
            frozen_dtype=precision.dtype,
        ).to(device)
        self._predictor = Predictor(network, encoder, precision, config.eval, device)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB -> ``(H, W)`` uint8 class indices."""
        strips = self.strips(None, image.shape[:2], lambda rows, columns: image[rows, columns])
        return torch.cat([classes_of(logits) for _, logits in strips]).numpy()

    def shares(self, size: tuple[int, int], number: int) -> list[slice]:
        """Rows of an image for each of some processes (see ``utils.inference.chunks``)."""
        return self._pieces(size).shares(number)

    def _pieces(self, size: tuple[int, int]) -> Pieces:
        config, structure = self.config.eval, self.config.structure
        superpixels = structure.selected().get("superpixels")
        segment_px = getattr(superpixels, "segment_size_px", None)
        return Pieces(size, config.window_px, config.overlap_px, segment_px)

    def strips(
        self,
        image: Input | None,
        size: tuple[int, int],
        read: Read,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits of an image strip by strip, as ``utils.inference.segment.segment_strips``.

        Args:
            image: which one; None: one that is in no file.
            size: its height and width.
            read: its pixels.
            part: rows that are wanted; None: all.
        """
        maps, pieces = self._maps.of(image), self._pieces(size)
        return segment_strips(self._predictor, pieces, size, read, maps, self.watch, part)


def made_maps(
    checkpoint: Checkpoint, config: Config, device: torch.device, keep: Path | None = None
) -> MadeMaps:
    """Generators for the checkpoint's structure; ``keep``: the folder their maps are kept in.

    Raises:
        ConfigError: structure that cannot be made of one RGB image.
        DataError: these settings make other maps than those of the training.
    """
    check_generated(config.structure, str(checkpoint.path))
    makers: dict[str, tuple[StructureGenerator, MapRecipe]] = {}
    stores = StructureEncoder(config.structure).stores
    for name, settings in config.structure.selected().items():
        if settings.store not in stores:
            continue
        generator = build_generator(name, settings, device)
        recipe = MapRecipe(
            generator=name,
            settings=map_settings(settings),
            weights_sha256=generator.weights_sha256,
        )
        trained_with = checkpoint.identity.maps.get(settings.store, {})
        if lines := differences(asdict(recipe), trained_with):
            raise DataError(
                f"{checkpoint.path} was trained with other structure maps than these settings "
                f"make (these | trained with): {'; '.join(lines)}"
            )
        makers[settings.store] = (generator, recipe)
    return MadeMaps(makers, keep)


def stored_maps(checkpoint: Checkpoint, config: Config, root: Path, split: str) -> MapSource | None:
    """The maps of a prepared data set; None, with a line on the console, if they do not fit."""
    stores = StructureEncoder(config.structure).stores
    if not stores or config.structure.control == "shuffled":
        return None
    try:
        check_structure(open_tile_set(root), config.structure, [split], checkpoint.identity.maps)
    except UserError as error:
        print(f"note: structure maps are made on the way, for {error}")
        return None
    return StoredMaps(root, stores)


def load_predictor(checkpoint: str | Path, *overrides: str, device: str = "auto") -> Segmenter:
    """A function that segments images, for use from Python.

    Args:
        checkpoint: path of best.pth or last.pth.
        overrides: changes of its recipe, ``key.sub=value``.
        device: auto, cpu or cuda.

    Returns:
        ``(H, W, 3)`` uint8 RGB -> ``(H, W)`` uint8 class indices.
    """
    loaded = load_checkpoint(Path(checkpoint))
    recipe = f"the recipe in {checkpoint}"
    config = config_from_dict(loaded.identity.recipe, recipe, [f"run.device={device}", *overrides])
    with distributed_session(config.run.device) as dist:
        return Segmenter(loaded, config, dist.device)


def export(checkpoint: Checkpoint, config: Config, path: Path) -> None:
    """Write the network alone as .pt2 or .onnx, see ``models.export``, and say how it is used."""
    encoder, identity = StructureEncoder(config.structure), checkpoint.identity
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        frozen_dtype=torch.float32,
    )
    metadata = {
        "classes": identity.classes,
        "palette": identity.palette,
        "structure": asdict(config.structure),
        "maps": identity.maps,
        "checkpoint_sha256": sha256_of(checkpoint.path),
    }
    difference = export_network(network.eval(), encoder.num_channels, path, metadata)
    print(
        f"{path}: logits of image (N, 3, H, W) and structure (N, {encoder.num_channels}, H, W); at "
        f"most {difference:.1g} from those of the network, at three sizes"
    )


def main() -> None:
    """Command line."""
    args = _parser().parse_args()
    if (args.input is None) != (args.output is None) or not (args.input or args.export):
        raise ConfigError("say what to segment, and where to: --input PATH --output DIR")
    checkpoint = load_checkpoint(args.checkpoint)
    recipe = checkpoint.identity.recipe
    config = config_from_dict(recipe, f"the recipe in {args.checkpoint}", args.overrides)
    if args.export is not None:
        export(checkpoint, config, args.export)
    if args.input is not None:
        segment(args, checkpoint, config)


def segment(args: argparse.Namespace, checkpoint: Checkpoint, config: Config) -> None:
    """Segment the images that the command line names."""
    inputs = find_inputs(args.input, args.output, args.split, png=args.submission)
    names = submission_names(inputs) if args.submission else {}
    recipe = checkpoint.identity.recipe
    with distributed_session(config.run.device, PATIENCE) as dist:
        if dist.device.type == "cpu":
            keep_freed_memory(large=False)
        if dist.is_main and (note := absence_note(config.structure, recipe["structure"])):
            print(note)
        keep = args.output / "maps" if args.keep_maps else None
        maps: MapSource | None = None
        if args.split is not None:
            maps = stored_maps(checkpoint, config, Path(args.input), args.split)
        maps = maps or made_maps(checkpoint, config, dist.device, keep)
        segmenter = Segmenter(checkpoint, config, dist.device, maps)
        wanted = Wanted(
            output=args.output,
            kinds=args.write,
            stretch=args.stretch,
            overwrite=args.overwrite,
            classes=tuple(checkpoint.identity.classes),
            palette=tuple((r, g, b) for r, g, b in checkpoint.identity.palette),
            made_by=digest_of(checkpoint, config, args.stretch),
        )
        sizes = infer_images(segmenter, inputs, wanted, dist)
    if names and dist.is_main:
        submit(args.output, names, sizes, len(checkpoint.identity.classes))


def digest_of(checkpoint: Checkpoint, config: Config, stretch: Sequence[float] | None) -> str:
    """Names the checkpoint and all settings that decide what the results of an image are."""
    settings = [asdict(config.structure), asdict(config.eval), config.run.precision, stretch]
    text = json.dumps([sha256_of(checkpoint.path), settings])
    return hashlib.sha256(text.encode()).hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    parser.add_argument("--input", metavar="PATH", help="image, folder, or pattern in quotes")
    parser.add_argument("--split", help="of --input, which then is a prepared data set")
    parser.add_argument("--output", type=Path, help="folder for the results")
    parser.add_argument(
        "--write",
        type=kinds_of_results,
        default=("index", "color", "overlay"),
        metavar="KINDS",
        help=f"some of {','.join(KINDS)} (default: index,color,overlay)",
    )
    parser.add_argument(
        "--stretch",
        type=low_and_high,
        metavar="LOW,HIGH",
        help="values of a channel that become 0 and 255 (default for 16 bit: 0,65535)",
    )
    parser.add_argument(
        "--keep-maps", action="store_true", help="keep structure maps in OUTPUT/maps, and use them"
    )
    parser.add_argument("--overwrite", action="store_true", help="repeat what is done")
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write the network alone, as .pt2 or .onnx"
    )
    parser.add_argument("--submission", action="store_true", help="also OUTPUT/submission.zip")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    return parser


if __name__ == "__main__":
    run_command(main)
