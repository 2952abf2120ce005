"""What is held against data sets: before training or evaluation begins, and alone."""
