"""The resident agent: a small supervisor that starts a short-lived worker for each poll and keeps the inference service up."""
