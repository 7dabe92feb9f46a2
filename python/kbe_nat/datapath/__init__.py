"""The two datapaths: what the kernel does and what the engine does for a flow."""
