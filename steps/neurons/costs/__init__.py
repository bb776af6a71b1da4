"""What jobs of this chapter take, by formulas: bytes, FLOPs, memory; a file per folder of library code."""
