"""How a model layer is stored in a bundle: encoders, and the choice between them. The device's decoders are the judge."""
