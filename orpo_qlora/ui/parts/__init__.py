"""What several tabs share: theme, cards, error handling, downloads. Floor 6; page process."""
