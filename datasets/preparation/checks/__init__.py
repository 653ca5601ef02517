"""Checks of a prepared set: the files of each tile, and overlaps between its splits."""
