"""What the tests share: stages, packets, clients, programs for pods, and second opinions."""
