"""Evaluation: the resumable runner, accounting of tokens and time, reports and plots."""
