//! murmur2
