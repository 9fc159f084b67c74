"""The mask decoder for many prompts on one image."""
