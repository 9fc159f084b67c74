"""Benchmarks beside peers: `python -m bench --help`."""
