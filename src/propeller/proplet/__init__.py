"""What works on a device: takes starts from the manager, runs guests, reports until it is heard."""
