"""Files of a folder data set: pairs of images and labels, their names, and random splits."""
