"""From a photo to the model's input."""
