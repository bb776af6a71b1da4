"""What auditors do to answer a question; they know the gateway's client alone."""
