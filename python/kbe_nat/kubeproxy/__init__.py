"""Everything that speaks kube-proxy's language."""
