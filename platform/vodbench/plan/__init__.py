"""What a study will take before it is run: time, GPUs, bytes and money, from measured times and a simulated sweep."""
