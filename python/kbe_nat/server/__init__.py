"""Answers over HTTP to load balancers, and later to monitors, from a thread of their own."""
