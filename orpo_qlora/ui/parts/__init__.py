"""What several tabs share: theme, cards, settings form, downloads. Floor 6; page process."""
