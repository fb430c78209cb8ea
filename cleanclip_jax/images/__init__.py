"""Images on the host, in NumPy and Pillow: decoding, geometry, augmentation."""
