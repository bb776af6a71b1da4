"""Opening language models and intervening in them: a library of several chapters, without rules."""
