"""Reading, writing and polygonising georeferenced rasters."""
