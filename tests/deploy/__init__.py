"""The manifests of `deploy/`."""
