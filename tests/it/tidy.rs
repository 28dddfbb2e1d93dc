//! Style that matters is a test.
