"""Mask2Former and Mask DINO as plain modules with explicit arguments; `freqdino.registration` builds them from YAML."""
