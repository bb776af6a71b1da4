"""Correlations of neurons: rotations, Pearson, products, moments, pairs of models."""
