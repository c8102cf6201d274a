"""Training clips: which frames they are made of (``plan``), and how they reach a training worker (``pipeline``)."""
