"""What a run will need, computed before it: memory, disk, work and time. Training and the planner share it."""
