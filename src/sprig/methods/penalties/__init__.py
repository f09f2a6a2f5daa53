"""Learned shrinkage: penalties that make a network sparse or smaller while it trains; see README.md."""
