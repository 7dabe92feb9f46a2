"""What /metrics shows: the names (`catalog`), changes as they come into force (`sync`), traffic of
service ports (`traffic`), and all of it as text (`exposition`).
"""
