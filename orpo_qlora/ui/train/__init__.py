"""The Train tab. Floor 6; page process."""
