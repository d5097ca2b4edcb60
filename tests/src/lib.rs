//! Tests that need more than one crate: cases that real processes play on real kernels, against a real
//! daemon. `kernel/main.rs` boots the guests, `src/bin/agentguard-guest.rs` runs in them, and both know the
//! cases from here.
//!
//! A case (`scene`) is a policy, files, and a function that has processes (`remote`) do things and looks at
//! what came of them and at what the log says (`bench`, `log`). Nothing here decides what is right: each case
//! does.

pub mod bench;
pub mod case;
pub mod cases;
pub mod daemon;
pub mod desk;
pub mod log;
pub mod measure;
pub mod remote;
pub mod runner;
pub mod said;
pub mod scene;
pub mod silent;
pub mod threats;
