"""An API server for tests, which speaks as a real one was recorded."""
