"""The operating system: whole files, full disks, processes that end with their parent."""
