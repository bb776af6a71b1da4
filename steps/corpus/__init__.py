"""The corpus: labelled documents with a train and a held-out side, from three kinds of source."""
