"""Inference on image folders and large scenes."""
