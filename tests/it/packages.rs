//! The files of `packaging/`, tried with the programs that they are for.

mod monitoring;
mod unit;
