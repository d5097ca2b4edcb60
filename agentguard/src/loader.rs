//! wip
pub mod offsets;
pub mod requirements;
