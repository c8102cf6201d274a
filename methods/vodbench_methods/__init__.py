"""The methods that ship with vodbench. Adding one: a folder, and a line here."""

METHODS: dict[str, str] = {
    "faster-rcnn": "vodbench_methods.detection.faster_rcnn:SPEC",
    "rdn-basic": "vodbench_methods.rdn.specs:BASIC",
    "rdn": "vodbench_methods.rdn.specs:FULL",
}

# Benchmarks of what the methods are made of: name under `vodbench bench` -> module with `command` and its `EPILOG`.
BENCHES: dict[str, str] = {
    "relation": "vodbench_methods.relation.bench",
}
