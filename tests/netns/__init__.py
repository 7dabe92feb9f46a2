"""Tests on real packets between network namespaces."""
