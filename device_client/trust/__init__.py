"""Trust: which signed metadata counts, who must agree, and what is remembered."""
