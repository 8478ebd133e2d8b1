"""Command-line mains (thin absl-flag files) and the configs that they read."""
