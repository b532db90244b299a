"""What `experiments/audio.py` is made of: the judge, the two models, the sounds."""
