"""The page: what a visitor sees of an engine."""
