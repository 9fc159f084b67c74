"""Benchmarks against peers, i.e. other implementations. See `python -m bench --help`."""
