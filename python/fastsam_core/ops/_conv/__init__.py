"""Convolutions over channels-last images, for inference: batch normalisation is already in weights and biases."""
