"""Speed and memory, always two sides measured in one run; ``make bench`` runs all of it."""
