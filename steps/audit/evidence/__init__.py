"""The hash chain that the gateway keeps, its stand-alone verifier, and ways to falsify it."""
