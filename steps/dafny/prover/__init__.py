"""Proofs without a language model: candidate invariants and what is left of them."""
