"""The classic networks: fully connected, convolutional, recurrent, autoencoder, policy."""
