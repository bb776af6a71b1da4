"""What counts as an answer: the benchmark's own rule, and insertions of hints alone."""
