"""Connections before and during their requests, those that became feeds, and how feeds are written and watched."""
