"""The fetch of a Hub data set as a background job. Floor 4."""
