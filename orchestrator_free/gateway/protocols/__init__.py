"""What unmodified clients of other protocols ask for."""
