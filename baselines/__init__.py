"""The baselines: one file each, with its YAML in conf/method."""
