"""Published networks that metrics run, rebuilt in Flax NNX, with the conversion of their weights."""
