"""What to do after a failed audit: a search for fixes that hold against an attacker who has the file."""
