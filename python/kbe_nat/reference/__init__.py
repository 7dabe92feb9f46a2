"""The same NAT in plain Python, to learn from and to test against."""
