"""Dafny itself: where it is, one clean process per claim, a warm server, what both answer."""
