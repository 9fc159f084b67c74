"""Run-length masks: encoding, decoding, measures and set operations."""
