"""The frequency analyses of the FDAM, FDConv and FreqFusion papers as functions of models and images."""
