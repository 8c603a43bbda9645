"""What any method may be trained with: optimisers and learning-rate schedules."""
