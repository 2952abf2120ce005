"""Position encodings, transformer layers, deformable attention, box functions: torch alone."""
