"""The values of an expected clipped n-gram count: one file each."""
