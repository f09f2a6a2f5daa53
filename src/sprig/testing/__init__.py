"""Toy networks of every topology and the contract that any surgery must hold; for tests, also of other projects."""
