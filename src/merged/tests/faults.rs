//! What other implementations of the merged tree get wrong, each fault a test.
