"""DafnyBench (Loughridge et al. 2024, arXiv 2406.08467): programs without their hints.

Steps on top, one module per rule; what they share lies in the packages below.
"""
