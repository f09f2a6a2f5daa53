"""Baselines: channels ranked by a score, weights left as they are."""
