"""Layers of Lipschitz constant 1."""
