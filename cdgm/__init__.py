"""cdgm: train generative models by coordinate descent, one block at a time."""

__version__ = '0.1.0'
