"""What a program says: its tokens, declarations and statements, and the hints in it."""
