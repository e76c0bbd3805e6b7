"""Post-training quantisation: what makes a model smaller or faster from its weights and a few rows of data, without training."""
