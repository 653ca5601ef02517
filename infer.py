"""Segment a folder of RGB images: checkpoint + images -> label maps, colour maps, overlays.

Nothing else is needed: structure maps are generated on the way, with the settings kept in the
checkpoint::

    python infer.py --checkpoint runs/synthetic/best.pth --input photos --output results

``OUTPUT/index``, ``OUTPUT/color`` and ``OUTPUT/overlay`` repeat the folders of the input.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from configs.schema import Config
from datasets.build import absence_note
from datasets.encodings import StructureEncoder
from datasets.maps import depth_levels, map_settings
from models.build import load_network
from models.generators.build import StructureGenerator, build_generator, check_generated
from utils.charts import legend
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.config import config_from_dict, differences
from utils.distributed import distributed_session
from utils.errors import DataError, UserError, run_command
from utils.evaluation import Predictor
from utils.files import list_images, read_rgb, write_png
from utils.precision import Precision
from utils.visualize import colorize, overlay


class Segmenter:
    """RGB image -> class indices; structure maps are generated as the checkpoint's recipe says.

    Raises:
        ConfigError: the checkpoint needs structure that cannot be made of one RGB image.
        DataError: the generator's weights are not those the checkpoint was trained with.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config, device: torch.device) -> None:
        check_generated(config.structure, str(checkpoint.path))
        encoder = StructureEncoder(config.structure)
        self._generators = _build_generators(checkpoint, config, device) if encoder.stores else {}
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
        maps = {}
        for store, generator in self._generators.items():
            made = generator.generate(image)
            levels = depth_levels(made)[0] if generator.kind == "values" else made
            maps[store] = torch.from_numpy(levels.astype(np.int32)).unsqueeze(0)
        picture = torch.from_numpy(image).movedim(-1, 0).unsqueeze(0)
        return self._predictor(picture, maps).argmax(0).to(torch.uint8).numpy()


def _build_generators(
    checkpoint: Checkpoint, config: Config, device: torch.device
) -> dict[str, StructureGenerator]:
    generators = {}
    for name, settings in config.structure.selected().items():
        generator = build_generator(name, settings, device)
        trained_with = checkpoint.identity.maps.get(settings.store, {})
        ours = {
            "generator": name,
            "settings": map_settings(settings),
            "weights_sha256": generator.weights_sha256,
        }
        if lines := differences(ours, trained_with):
            raise DataError(
                f"{checkpoint.path} was trained with other structure maps than these settings "
                f"make (these | trained with): {'; '.join(lines)}"
            )
        generators[settings.store] = generator
    return generators


def name_outputs(paths: list[Path], root: Path) -> dict[Path, Path]:
    """Output name of each input, relative to the output folder: same folders, ``.png``.

    Images of one folder that differ only in their suffix keep it (``a.jpg.png``, ``a.tif.png``).
    """
    plain = {path: path.relative_to(root).with_suffix(".png") for path in paths}
    count = Counter(plain.values())
    return {
        path: name if count[name] == 1 else Path(f"{path.relative_to(root)}.png")
        for path, name in plain.items()
    }


def infer_folder(segmenter: Segmenter, checkpoint: Checkpoint, source: Path, output: Path) -> None:
    """Segment every image below ``source``; go on after broken ones and name them at the end.

    Raises:
        MissingDataError: there is no image.
        DataError: some images could not be segmented.
    """
    paths = [p for p in list_images(source) if output.resolve() not in p.resolve().parents]
    palette = [(red, green, blue) for red, green, blue in checkpoint.identity.palette]
    failures: dict[Path, str] = {}
    for path, name in tqdm(name_outputs(paths, source).items(), desc="infer", unit="image"):
        try:
            image = read_rgb(path)
        except UserError as error:
            failures[path] = str(error)
            continue
        labels = segmenter(image)
        write_png(output / "index" / name, labels)
        write_png(output / "color" / name, colorize(labels, palette))
        write_png(output / "overlay" / name, overlay(image, labels, palette))
    write_png(output / "legend.png", legend(checkpoint.identity.classes, palette, 400))
    print(f"{len(paths) - len(failures)} of {len(paths)} images segmented; results in {output}")
    if failures:
        lines = "".join(f"\n  {text}" for text in failures.values())
        raise DataError(f"{len(failures)} of {len(paths)} images could not be segmented:{lines}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    parser.add_argument("--input", type=Path, required=True, help="folder of RGB images")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    config = config_from_dict(
        checkpoint.identity.recipe, f"the recipe in {args.checkpoint}", args.overrides
    )
    if note := absence_note(config.structure, checkpoint.identity.recipe["structure"]):
        print(note)
    with distributed_session(config.run.device) as dist:
        segmenter = Segmenter(checkpoint, config, dist.device)
        infer_folder(segmenter, checkpoint, args.input, args.output)


if __name__ == "__main__":
    run_command(main)
