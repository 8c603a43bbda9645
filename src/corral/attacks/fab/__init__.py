"""Fast adaptive boundary attack (Croce and Hein 2020)."""
