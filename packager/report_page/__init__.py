"""The compression report for people: one HTML page beside the bundle, without scripts or anything loaded from outside.

It shows the facts that the bundle's report holds, and beside them what may not be in a bundle: readings of clock and meter.
"""
