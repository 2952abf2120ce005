"""Published data sets into the files that the loaders read."""
