//! The entry points, one file per subject. A program's name is its hook's.

mod address;
mod exec;
mod family;
mod file;
mod listen;
mod map;
mod metadata;
mod moved;
mod option;
mod process;
mod socket;
mod system;
mod task;
mod tree;
mod unix;
