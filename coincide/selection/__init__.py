"""The select stage: clusters, scores and subset as artifacts, and what a method sees."""
