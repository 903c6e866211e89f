"""The sessions this gateway serves at the moment: one reader, one fold and the frames of each, and who is fed."""
