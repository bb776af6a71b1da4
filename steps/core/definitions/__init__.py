"""What a step's code digest covers: the definitions that it reaches, found in the sources."""
