"""What jobs need and how long they take: memory, disk, work, speed, progress. Imports no torch but to time it."""
