"""Experiments: what the library is for, one file or folder for each command."""
