"""What it takes to test code that enqueues jobs, and the jobs themselves."""
