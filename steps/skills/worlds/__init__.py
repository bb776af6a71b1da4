"""Worlds whose states are made of named variables, stepped by the thousand."""
