"""Detection in propagated features: a detector and a flow network (Deep Feature Flow and its relatives)."""
