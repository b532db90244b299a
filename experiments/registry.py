"""The experiments that make runs, by name."""

from experiments import gan, vae

EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in (vae, gan)}
