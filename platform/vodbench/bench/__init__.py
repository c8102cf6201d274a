"""Speed, measured: each module holds one `vodbench bench` command."""
