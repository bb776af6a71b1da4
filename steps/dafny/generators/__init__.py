"""Where candidates come from that this chapter does not prove itself."""
