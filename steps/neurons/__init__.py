"""Universal neurons: which neurons of a language model recur when the seed changes.

Gurnee et al., "Universal Neurons in GPT2 Language Models", arXiv 2401.12181.
"""
