"""Convolutions over channels-last images, for inference: weights and biases already include batch normalisation."""
