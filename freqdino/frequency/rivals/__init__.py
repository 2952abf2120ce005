"""The other rows of the papers' tables."""
