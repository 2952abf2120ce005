"""Predictions shown: drawn into files, listed, and as a page in a browser."""
