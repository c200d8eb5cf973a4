"""What activations do on real samples: the statistics that ranges are made of."""
