"""What every chapter needs and no chapter owns."""
