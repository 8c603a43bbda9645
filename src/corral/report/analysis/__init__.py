"""The page of a run's analyses, and their figures."""
