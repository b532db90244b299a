"""Run sweeps: many trials, each once, on one machine or on a cluster."""
