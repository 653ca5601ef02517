"""Types and defaults of command-line arguments that several commands share."""

import argparse
import os


def non_negative_int(text: str) -> int:
    """Parse a whole number, 0 or more."""
    return _at_least(0, text)


def positive_int(text: str) -> int:
    """Parse a whole number, 1 or more."""
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    if (number := int(text)) < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, not {number}")
    return number


def default_workers() -> int:
    """Return the default of ``--workers``: one per core, at most 8 because of memory."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4, 8)
