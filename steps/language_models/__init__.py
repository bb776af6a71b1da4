"""Tokenizer, rows of tokens, and GPT-2 models: trained from seeds or brought by the user."""
