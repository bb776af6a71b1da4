"""Programs of our own, answers to them, and what Dafny said of all that the default study asks."""
