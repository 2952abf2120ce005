"""Names that weights have in other projects and in older checkpoints, as this project's models have them."""
