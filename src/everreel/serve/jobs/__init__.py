"""Films that are asked for now and made later, by processes of their own."""
