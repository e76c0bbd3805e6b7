"""Removes whole channels from an ONNX graph that comes without the program that trained it: the technique ``prune-channels``."""
