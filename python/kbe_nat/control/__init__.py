"""The control loop's step: from objects and operators' wishes to the engine and the kernel."""
