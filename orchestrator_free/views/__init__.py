"""What is read out of a folded session: who is there, what was said, who asked whom; pure."""
