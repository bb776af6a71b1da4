"""What work takes: formulas, a file per folder beside this one, and hardware."""
