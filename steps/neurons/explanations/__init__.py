"""What neurons fire on: features, labels, families, both passes, tables."""
