"""Fractal generative models: one small generator inside another, from patches down to colour values."""
