"""Auto-PGD (Croce and Hein 2020)."""
