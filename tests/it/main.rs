//! The tests: people who talk to a real server on a real socket, with a database of their own.

mod authorization;
mod batches;
mod binary;
mod conformance;
mod keys;
mod limits;
mod operating;
mod signatures;
mod tidy;
mod world;
