"""Faults of a machine, foreseen on a small controller: C-MAPSS turbofans, from a recurrent teacher to a distilled student."""
