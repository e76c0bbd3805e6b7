"""The update server: distribution, publishing and the device API."""
