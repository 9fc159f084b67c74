"""The implementations that the benchmarks stand beside; each module needs a package of the optional extra `bench`."""
