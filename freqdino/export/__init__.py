"""Models as files that run without their code: torch.export and ONNX, verified; and such files in use."""
