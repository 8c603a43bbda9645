"""What any method can be trained with: one file an ingredient, each off by default."""
