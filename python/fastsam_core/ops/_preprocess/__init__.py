"""Preprocessing: from an image to the model's input."""
