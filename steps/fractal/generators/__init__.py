"""The recursive generator: its blocks, its levels, sampling."""
