"""The local web page over a folder of run directories.

What the page shows is read by modules that know nothing of Gradio; the page itself only places it.
"""
