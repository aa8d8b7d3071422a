"""One teacher, distilled into few steps, in any modality."""
