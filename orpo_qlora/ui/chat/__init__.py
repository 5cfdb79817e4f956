"""The Chat tab. Floor 6; page process."""
