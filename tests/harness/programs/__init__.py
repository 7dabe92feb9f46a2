"""Programs that tests run in processes and namespaces beside them. Each is called by its path."""
