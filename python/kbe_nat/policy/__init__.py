"""Which endpoints may serve whom on a node: from a snapshot to a plan."""
