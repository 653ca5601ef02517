"""Segment a folder of RGB images: checkpoint + images -> label maps, colour maps, overlays.

Nothing else is needed: structure maps are generated on the way, with the settings kept in the
checkpoint::

    python infer.py --checkpoint runs/synthetic/best.pth --input photos --output results

``OUTPUT/index``, ``OUTPUT/color`` and ``OUTPUT/overlay`` repeat the folders of the input.
``--submission`` packs the indices for the LoveDA server as well.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from configs.schema import Config
from datasets.build import absence_note
from datasets.encodings import StructureEncoder
from datasets.inputs import Input, find_inputs, submission_names
from datasets.maps import depth_levels, map_settings
from models.build import load_network
from models.generators.build import StructureGenerator, build_generator, check_generated
from utils.charts import legend
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.config import config_from_dict, differences
from utils.distributed import distributed_session
from utils.errors import DataError, UserError, run_command
from utils.evaluation import Predictor
from utils.files import read_rgb, write_png
from utils.precision import Precision
from utils.submission import submit
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
        return self._predictor(picture, maps).numpy()


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


def infer_images(
    segmenter: Segmenter, checkpoint: Checkpoint, inputs: list[Input], output: Path
) -> dict[Path, tuple[int, int]]:
    """Segment every image; go on after broken ones and name them at the end.

    Returns:
        Height and width of the images, by the name of their results.

    Raises:
        DataError: some images could not be segmented.
    """
    palette = [(red, green, blue) for red, green, blue in checkpoint.identity.palette]
    sizes, failures = {}, []
    for item in tqdm(inputs, desc="infer", unit="image"):
        try:
            image = read_rgb(item.path)
        except UserError as error:
            failures.append(str(error))
            continue
        labels = segmenter(image)
        write_png(output / "index" / item.result, labels)
        write_png(output / "color" / item.result, colorize(labels, palette))
        write_png(output / "overlay" / item.result, overlay(image, labels, palette))
        sizes[item.result] = image.shape[:2]
    write_png(output / "legend.png", legend(checkpoint.identity.classes, palette, 400))
    print(f"{len(sizes)} of {len(inputs)} images segmented; results in {output}")
    if failures:
        head = f"{len(failures)} of {len(inputs)} images could not be segmented:"
        raise DataError("\n  ".join([head, *failures]))
    return sizes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    parser.add_argument("--input", type=Path, required=True, help="folder of RGB images")
    parser.add_argument("--split", help="of --input, which then is a prepared data set")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--submission", action="store_true", help="also OUTPUT/submission.zip")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    args = parser.parse_args()
    inputs = find_inputs(args.input, args.output, args.split)
    names = submission_names(inputs) if args.submission else {}
    checkpoint = load_checkpoint(args.checkpoint)
    recipe = checkpoint.identity.recipe
    config = config_from_dict(recipe, f"the recipe in {args.checkpoint}", args.overrides)
    if note := absence_note(config.structure, recipe["structure"]):
        print(note)
    with distributed_session(config.run.device) as dist:
        segmenter = Segmenter(checkpoint, config, dist.device)
        sizes = infer_images(segmenter, checkpoint, inputs, args.output)
    if names:
        submit(args.output, names, sizes, len(checkpoint.identity.classes))


if __name__ == "__main__":
    run_command(main)
