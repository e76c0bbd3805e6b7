"""Heartbeat anomalies on a wearable: ECG5000, from a convolutional baseline to a distilled INT8 network in a bundle."""
