"""How well a mask agrees with the truth, and an image with the one that was wanted."""
