//! What is wrong with a node, found without changing anything.
