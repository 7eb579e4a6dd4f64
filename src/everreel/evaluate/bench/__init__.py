"""SkyReels-Bench: people rate films on a page, blind, and the paper's table comes out."""
