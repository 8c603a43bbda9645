"""Programs from files: checked and rebuilt before torch sees them, then loaded and run in a process without rights."""
