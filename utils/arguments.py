"""Types of command-line arguments that several commands have."""

import argparse
import os
from collections.abc import Callable
from typing import Any


def non_negative_int(text: str) -> int:
    """A whole number, 0 or more."""
    return _at_least(0, text)


def positive_int(text: str) -> int:
    """A whole number, 1 or more."""
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    if (number := int(text)) < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, not {number}")
    return number


def add_workers(add: Callable[..., Any]) -> None:
    """``--workers`` of the commands that prepare."""
    add("--workers", type=positive_int, default=default_workers(), help="images at a time")


def default_workers() -> int:
    """How many images to work on at a time: one a core, at most 8 because of the memory."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4, 8)


def low_and_high(text: str) -> tuple[float, float]:
    """The argument type of ``--stretch 0,2047``."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(f"must be LOW,HIGH, e.g. 0,2047, not '{text}'")
    return low, high
