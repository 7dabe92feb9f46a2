"""The node proxy as a process: its life, its privileges, and the socket by which it is asked and
told.
"""
