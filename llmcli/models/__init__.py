"""The models: which there are, where they stand, whether a file is fit to load."""
