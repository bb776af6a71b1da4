"""What skills are judged by: coverage, control, side effects."""
