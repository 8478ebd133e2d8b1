"""Commands that measure: each prints ratios of figures that it takes in one run."""
