"""Structure generators: RGB image to segment map or depth map."""
