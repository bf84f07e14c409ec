"""What a run file would need: memory, disk, work and time, before anything is trained; and how right that was."""
