"""Architecture search: small networks of known kinds, trained with the original as the teacher. The technique ``nas``."""
