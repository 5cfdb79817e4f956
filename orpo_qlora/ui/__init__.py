"""The page. It reads the store and starts programs; it never imports torch. Floor 5."""
