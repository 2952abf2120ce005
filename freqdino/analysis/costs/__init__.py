"""Parameters, FLOPs, activations, time and memory of models, part by part."""
