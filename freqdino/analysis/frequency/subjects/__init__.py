"""The subjects of `freqdino-analyze-frequency`: each measures a model on images and returns numbers for JSON."""
