"""Membership inference: can a record be told to have trained the model, from what the exact bytes say about it?"""
