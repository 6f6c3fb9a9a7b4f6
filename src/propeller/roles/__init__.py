"""Starting things: each role alone, all in `up`, and the demo. The only room that imports every app."""
