//! The entry points, one file per subject. A program's name is its hook's.

mod exec;
mod file;
mod listen;
mod process;
mod socket;
mod task;
mod tree;
mod unix;
