"""Attribute inference: can a sensitive column of a training record be guessed better with the model than without it?"""
