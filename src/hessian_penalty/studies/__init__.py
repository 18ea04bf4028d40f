"""Who trains, rotates, measures and reports what: the demo, comparisons, rotations of runs."""
