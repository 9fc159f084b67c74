"""Peers of the benchmarks, i.e. other implementations. Each module needs a package of the optional extra `bench`."""
