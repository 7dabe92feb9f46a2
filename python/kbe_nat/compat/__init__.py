"""Our own code behind the interfaces of other packages."""
