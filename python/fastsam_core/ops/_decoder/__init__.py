"""The mask decoder's work on image tokens."""
