"""Prompt sets and the answers that models give to them."""
