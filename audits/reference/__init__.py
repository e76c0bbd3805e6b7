"""IBM's Adversarial Robustness Toolbox on the shipped bytes: a reference beside our attacks, which never decides."""
