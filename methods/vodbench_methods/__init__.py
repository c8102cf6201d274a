"""The methods that ship with vodbench. Adding one: a folder, and a line here."""

METHODS: dict[str, str] = {
    "faster-rcnn": "vodbench_methods.detection.faster_rcnn:SPEC",
    "r-fcn": "vodbench_methods.rfcn.model:SPEC",
    "r-fcn-flow": "vodbench_methods.propagation.optical_flow:SPEC",
    "dff": "vodbench_methods.propagation.dff:SPEC",
    "semi-dff": "vodbench_methods.semidff.specs:SPEC",
    "fgfa": "vodbench_methods.fgfa.model:SPEC",
    "thp": "vodbench_methods.thp.specs:SPEC",
    "relation-network": "vodbench_methods.relation_network.model:SPEC",
    "rdn-basic": "vodbench_methods.rdn.specs:BASIC",
    "rdn": "vodbench_methods.rdn.specs:FULL",
    "selsa": "vodbench_methods.selsa.model:SPEC",
    "hvrnet": "vodbench_methods.hvrnet.specs:SPEC",
}

# Benchmarks of what the methods are made of: name under `vodbench bench` -> module with `command` and its `EPILOG`.
BENCHES: dict[str, str] = {
    "linking": "vodbench_methods.linking.bench",
    "stream": "vodbench_methods.rdn.bench",
    "relation": "vodbench_methods.relation.bench",
    "flow": "vodbench_methods.propagation.bench",
}
