"""Prepare a data set: published archives, or any folder of images and masks -> data/NAME.

::

    python prepare.py potsdam --source ARCHIVES --output data/potsdam --dsm
    python prepare.py loveda --source Train.zip --source Val.zip --output data/loveda
    python prepare.py folder --tree DIR --classes FILE --output data/NAME --tile-size 512
    python prepare.py folder --images DIR --labels DIR --shares 0.8 0.1 0.1 --classes FILE ...
    python prepare.py sensor --data data/NAME --name dsm --rasters DIR
    python prepare.py synthetic --output data/synthetic
    python prepare.py check --data data/NAME
"""

import argparse

from datasets.preparation import check, folder, sensor, synthetic
from datasets.preparation.published import loveda, potsdam, tree_mapping, vaihingen
from utils.errors import run_command

COMMANDS = {
    "potsdam": ("ISPRS Potsdam, from its archives", potsdam),
    "vaihingen": ("ISPRS Vaihingen, from its archives", vaihingen),
    "loveda": ("LoveDA, from its archives", loveda),
    "tree_mapping": ("trees and background, in folders", tree_mapping),
    "folder": ("any folder of images and masks", folder),
    "synthetic": ("procedurally drawn scenes, for the demo", synthetic),
    "sensor": ("rasters of a real sensor, as a modality", sensor),
    "check": ("verification of a prepared data set", check),
}


def main() -> None:
    """Run the command that the command line names."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (what, module) in COMMANDS.items():
        command = commands.add_parser(name, help=what, formatter_class=formatter)
        command.set_defaults(run=module.run)
        module.add_arguments(command.add_argument)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    run_command(main)
