"""Training: kernels, losses and the loop."""
