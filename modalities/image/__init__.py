"""Images: Fashion-MNIST and handwritten digits, a small U-Net, and metrics in the features of a small classifier."""
