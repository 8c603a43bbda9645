"""Square Attack (Andriushchenko et al. 2020)."""
