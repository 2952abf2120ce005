"""Backbones: Detectron2's, timm's and our own, with places for the frequency modules."""
