"""The sources of a corpus: documents from a frozen text, files or a dataset of the hub."""
