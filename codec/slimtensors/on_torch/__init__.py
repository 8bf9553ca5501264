"""What `slimtensors.torch` is made of."""
