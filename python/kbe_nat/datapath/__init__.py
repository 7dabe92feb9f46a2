"""The datapaths: they divide the work for a flow between kernel and engine."""
