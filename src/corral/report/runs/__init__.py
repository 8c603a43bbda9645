"""Pages about evaluated runs."""
