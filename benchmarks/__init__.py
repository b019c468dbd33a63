"""What the library costs beside the bare driver or language for the same work; see README.md here."""
