"""What tests share: golden files, small models and data, command lines, two processes."""
