"""Experiments: what the library is for, one file each, run with `python -m`."""
