"""Sites: one YAML file for each kind of node of a cluster, and the rules of its queue."""
