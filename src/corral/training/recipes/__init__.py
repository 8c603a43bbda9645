"""Recipes: what a run is made by."""
