"""Segment RGB images of any size: checkpoint + images -> label maps, colour maps, overlays.

The checkpoint is enough: structure maps are generated from the images with the settings in it::

    python infer.py --checkpoint runs/synthetic/best.pth --input photos --output results

``OUTPUT/index``, ``OUTPUT/color`` and so on repeat the folders of the input; ``OUTPUT/index.html``
shows them. In Python: ``predict = load_predictor("best.pth")``, then ``predict(image)``.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_ROOT, _NAMES = Path(__file__).resolve().parent, ("configs", "datasets", "models", "utils")


def _is_ours(name: str) -> bool:
    """Return True if a package of this name is, or would be, imported from this folder."""
    spec = find_spec(name)
    return spec is not None and Path(spec.origin or "").resolve() == _ROOT / name / "__init__.py"


_taken = [name for name in _NAMES if not _is_ours(name)]  # by packages of another project
_own: dict[str, ModuleType] = {}  # our modules of these names


def _set_aside() -> dict[str, ModuleType]:
    return {n: sys.modules.pop(n) for n in [*sys.modules] if n.partition(".")[0] in _taken}


@contextmanager
def _own_packages() -> Iterator[None]:
    """Import packages of this folder; another project's ones of the same names are back afterwards.

    ``load_predictor`` thus works in a project that has a package ``utils`` or uses ``datasets``.
    """
    others = _set_aside()
    sys.modules.update(_own)
    sys.path.insert(0, str(_ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(_ROOT))
        _own.update(_set_aside())
        sys.modules.update(others)


with _own_packages():
    from configs.schema import Config
    from datasets.loaders import absence_note
    from datasets.preparation.published.loveda import submit
    from datasets.sensors import files_by_name, named_sensor
    from utils.config import config_from_dict
    from utils.distributed import choose_device, distributed_session
    from utils.errors import ConfigError, run_command
    from utils.inference.export import export_checkpoint
    from utils.inference.inputs import choose_rendering, find_inputs, passed_over, submission_names
    from utils.inference.maps import choose_maps
    from utils.inference.progress import settings_digest
    from utils.inference.results import KINDS, OutputSettings, kinds_of_results
    from utils.inference.run import infer_images
    from utils.inference.segment import Segmenter, load_segmenter
    from utils.malloc import keep_freed_memory
    from utils.rasters.rendering import AS_STORED, Rendering, bands_of, stretch_of
    from utils.training.checkpoint import Checkpoint, load_checkpoint

PATIENCE = timedelta(days=2)  # ranks wait for each other only after images that may take hours


def load_predictor(checkpoint: str | Path, *overrides: str, device: str = "auto") -> Segmenter:
    """Build a function that segments images, for use from Python.

    Args:
        checkpoint: path of best.pth or last.pth.
        overrides: changes of its recipe, ``key.sub=value``.
        device: auto, cpu or cuda.

    Returns:
        ``(H, W, 3)`` uint8 RGB -> ``(H, W)`` uint8 class indices; of a network that was trained
        with a sensor: ``predict(image, dsm=array)``, see ``Segmenter``.
    """
    loaded = load_checkpoint(Path(checkpoint))
    recipe = f"the recipe in {checkpoint}"
    config = config_from_dict(loaded.identity.recipe, recipe, [f"run.device={device}", *overrides])
    with _own_packages():  # generators are imported when they are built
        return load_segmenter(loaded, config, choose_device(config.run.device))


def main() -> None:
    """Command line."""
    args = _parser().parse_args()
    if (args.input is None) != (args.output is None) or not (args.input or args.export):
        raise ConfigError("name the images and a folder for the results: --input PATH --output DIR")
    if args.output is not None and args.output.is_file():
        raise ConfigError(f"--output {args.output} is a file; name a folder")
    checkpoint = load_checkpoint(args.checkpoint)
    recipe = checkpoint.identity.recipe
    config = config_from_dict(recipe, f"the recipe in {args.checkpoint}", args.overrides)
    if args.export is not None:
        export_checkpoint(checkpoint, config, args.export)
    if args.input is not None:
        segment(args, checkpoint, config)


def segment(args: argparse.Namespace, checkpoint: Checkpoint, config: Config) -> None:
    """Segment the images that the command line names."""
    if args.submission and "index" not in args.write:
        raise ConfigError("--submission packs the class indices; add them: --write index")
    files = files_by_name(args.sensor)
    rendering, line = _rendering(args, Rendering.from_plain(checkpoint.identity.rendering))
    inputs = find_inputs(args.input, args.output, args.split, png=args.submission)
    names = submission_names(inputs) if args.submission else {}
    identity = checkpoint.identity
    output = OutputSettings(
        folder=args.output,
        kinds=args.write,
        min_area=args.min_area,
        simplify_m=args.simplify,
        classes=tuple(identity.classes),
        palette=tuple((r, g, b) for r, g, b in identity.palette),
    )
    with distributed_session(config.run.device, PATIENCE) as dist:
        if dist.device.type == "cpu":
            keep_freed_memory(large=False)
        if dist.is_main:
            notes = [absence_note(config.structure, identity.recipe["structure"]), line]
            if args.split is None:
                notes.append(passed_over(args.input, args.output))
            print(*(f"{note}\n" for note in notes if note is not None), sep="", end="")
        maps = choose_maps(
            checkpoint,
            config,
            dist,
            data_split=None if args.split is None else (Path(args.input), args.split),
            keep=args.output / "maps" if args.keep_maps else None,
            files=files,
            rendering=rendering,
            num_images=len(inputs),
        )
        sizes = infer_images(
            load_segmenter(checkpoint, config, dist.device, maps),
            inputs,
            output,
            dist,
            digest=settings_digest(checkpoint, config, rendering, output, maps.kind),
            rendering=rendering,
            overwrite=args.overwrite,
        )
    if names and dist.is_main:
        submit(args.output, names, sizes, len(identity.classes))


def _rendering(args: argparse.Namespace, trained: Rendering) -> tuple[Rendering, str | None]:
    """Return the rendering of the images, and a line for the console."""
    own = {"bands": args.bands, "stretch": args.stretch, "alpha_is_data": args.alpha_is_data}
    if args.split is None:
        return choose_rendering(trained, **own)
    if any(own.values()):
        raise ConfigError(
            "--bands, --stretch and --alpha-is-data tell how image files are read; those of a "
            "prepared data set (--split) are RGB already"
        )
    return AS_STORED, None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    add("--input", metavar="PATH", help="image, folder, or pattern in quotes")
    add("--split", help="split of --input, which then is a prepared data set")
    add("--output", type=Path, help="folder for the results")
    add(
        "--write",
        type=kinds_of_results,
        default=("index", "color", "overlay"),
        metavar="KINDS",
        help=f"some of {','.join(KINDS)} (default: index,color,overlay)",
    )
    add(
        "--bands",
        type=bands_of,
        default=(),
        metavar="R,G,B",
        help="bands as red, green and blue, counted from 1 (default: as in training)",
    )
    add(
        "--stretch",
        type=stretch_of,
        default=(),
        metavar="LOW,HIGH",
        help="values that become 0 and 255, one pair or one a band (default: as in training)",
    )
    add("--alpha-is-data", action="store_true", help="an alpha band does not mark missing pixels")
    add(
        "--sensor",
        type=named_sensor,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="raster, or folder of a raster per image, of a sensor; PATH:band:N for one of several "
        "bands, or NAME=band:N of the images; repeatable",
    )
    add(
        "--min-area",
        type=float,
        default=0.0,
        metavar="M2",
        help="leave out smaller polygons (pixels where their area is not known)",
    )
    add("--simplify", type=float, metavar="METRES", help="simplify polygons; needs shapely 2.1")
    add("--keep-maps", action="store_true", help="store structure maps in OUTPUT/maps for reuse")
    add("--overwrite", action="store_true", help="repeat images that are done")
    add("--export", type=Path, metavar="FILE", help="write a small .pth, .pt2 or .onnx")
    add("--submission", action="store_true", help="also write OUTPUT/submission.zip")
    add("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    return parser


if __name__ == "__main__":
    run_command(main)
