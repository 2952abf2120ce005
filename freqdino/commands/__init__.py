"""What the scripts of the repository and the console commands call: arguments, messages, exit status."""
