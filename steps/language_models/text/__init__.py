"""Text as models see it: documents and tokenizers."""
