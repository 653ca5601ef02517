"""Structure generators: image -> segment map."""
