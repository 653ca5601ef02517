"""Data sets on disk, and the samples that are made of them."""
