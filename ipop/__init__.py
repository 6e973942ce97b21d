"""The virtual network: frames, address resolution, the data path, the network authority and the command."""
