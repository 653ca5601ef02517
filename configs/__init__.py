"""Settings: the recipe dataclasses and the recipes themselves."""
