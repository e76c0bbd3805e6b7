"""The page of an audit: one self-contained HTML file from the evidence and the stored pictures. It shows and decides nothing."""
