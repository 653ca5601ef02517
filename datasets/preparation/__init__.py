"""Preparation: published archives or user folders to a prepared data set."""
