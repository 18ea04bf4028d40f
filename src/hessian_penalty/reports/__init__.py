"""Pictures, videos and figures of a generator, and the page that puts several models side by side."""
