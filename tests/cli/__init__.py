"""Tests of the command line, one file per matter."""
