"""What the experiment vae is made of: nets, blocks, signals, and its last report."""
