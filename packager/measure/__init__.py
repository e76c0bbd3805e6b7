"""What a model costs: multiply-accumulates, memory, energy, counted from its graph or read from a meter.

    workload = count_workload(data)                  # MACs by arithmetic, bytes moved, planned memory
    figures = [model_on(workload, profile) for profile in PROFILES]

Counting is a function of the bytes alone and may stand in a bundle. Meters (``meters.py``) are read beside the bundle
only. Nothing here decides what ships.
"""
