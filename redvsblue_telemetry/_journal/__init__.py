"""The journal: files in which events outlive the process that emitted them."""
