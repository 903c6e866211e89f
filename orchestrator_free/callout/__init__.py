"""The auth callout service: the broker asks it who somebody with a token is."""
