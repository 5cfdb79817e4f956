"""Data checks: findings in the pairs, and their fixes. Floor 1; no torch."""
