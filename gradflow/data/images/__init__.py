"""Image data sets on disk: what is known of them, their raw files, import, download, and the embedded subset."""
