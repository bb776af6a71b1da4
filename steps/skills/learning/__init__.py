"""How skills are learned: base algorithms, the focusing wrapper, the tabular learner, what is kept."""
