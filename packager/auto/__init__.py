"""The search for the smallest and fastest variant within an accuracy budget."""
