"""Objects from the API server: lists and watches of its own Node, Services and EndpointSlices."""
