"""The routes of sessions and of the things in them, a module each."""
