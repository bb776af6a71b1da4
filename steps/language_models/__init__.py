"""Tokenizer, rows of tokens, and models: GPT-2 trained from seeds, or those of the user."""
