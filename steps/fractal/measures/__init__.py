"""What models are measured by: simple rivals, and the quality of samples."""
