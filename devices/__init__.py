"""Device drivers and profiles; the first of them come with a later issue."""
