"""The networks: image encoders, prompt encoder, mask decoder, and the registry that names their sizes."""
