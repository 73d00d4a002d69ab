"""Programs that run without d2v: ONNX and torch.export."""
