"""Responses of a policy. Floor 1."""
