"""Emulated fleets: devices in QEMU, their consoles and networks, and what they cost. It knows no service."""
