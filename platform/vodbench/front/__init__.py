"""The speed-accuracy front."""
