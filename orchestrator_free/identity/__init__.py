"""Who speaks: tokens, what they allow, and the keys that sign them. Nothing here knows HTTP or the broker."""
