//! wip
pub mod layout;
