"""Who may ask for what, how much and from which page; and what the audit log hears of it."""
