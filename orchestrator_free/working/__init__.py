"""The inner side of an agent process: deliveries become attempts, attempts call a handler, its output becomes a run."""
