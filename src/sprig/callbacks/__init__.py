"""Thin callbacks for training loops that are not ours, one file per library; each is imported by its own name.

A shrunk network is a plain module and needs none of them. A *masked* one does: an optimizer moves its zeros.
"""
