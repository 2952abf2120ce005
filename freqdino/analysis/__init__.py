"""What models cost, what they do to frequencies, how fast the operators are, and what the modules change."""
