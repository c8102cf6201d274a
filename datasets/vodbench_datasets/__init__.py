"""The data sets that ship with vodbench. Adding one: a folder, and a line here. Order is the order of guessing."""

DATASETS: dict[str, str] = {
    "shards": "vodbench_datasets.shards:SPEC",
    "ilsvrc": "vodbench_datasets.ilsvrc:SPEC",
}

# What commands need besides reading: name -> object, so that the platform imports none of it until it is asked for.
TOOLS: dict[str, str] = {
    "generator_config": "vodbench_datasets.tools:generator_config",
    "generate": "vodbench_datasets.generated:generate",
    "shard": "vodbench_datasets.shards:write_shards",
    "verify": "vodbench_datasets.shards:verify_shards",
}

# Benchmarks of what data sets are made of: name under `vodbench bench` -> module with `command` and its `EPILOG`.
BENCHES: dict[str, str] = {
    "data": "vodbench_datasets.clips.bench",
    "shards": "vodbench_datasets.shards.bench",
}
