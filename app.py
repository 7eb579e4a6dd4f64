"""everreel's page for everybody, as Hugging Face Spaces run it: the embedded model, and a small quota for each visitor.

`python app.py` serves it on port 7860. The one invariant: a visitor is the session of an open page and nothing else, so
nobody sees another's films, and all of them are gone with the folder that they are made in.
"""
