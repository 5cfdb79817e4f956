"""The Data tab. Floor 6; page process."""
