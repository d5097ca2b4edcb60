//! The policy language: from TOML files to the tables that the kernel reads, and every question that can
//! be asked of a policy without a kernel.
//!
//! ```text
//! text -> document -> rules (own, included, always there) -> compile -> CompiledProfile
//!         (what is wrong, where)                             (prefix tree, automata, cells)
//! ```
//!
//! What is *not* here: aya, maps, the running kernel. What the kernel side can enforce is handed in as
//! [`Capabilities`]; what comes out is cells and a rule table.

mod address;
mod capabilities;
mod compile;
mod diagnostic;
mod document;
mod explain;
mod host;
mod model;
pub mod overlay;
mod pattern;
mod profile;
pub mod schema;
mod set;
pub mod simulator;
mod source;
pub mod system;
mod testing;
mod tokens;

pub use self::{
    address::{Destination, parse_destination},
    capabilities::{Capabilities, Missing},
    diagnostic::{Diagnostic, Diagnostics, Severity, Style},
    explain::{Explanation, explain, parse_listen, parse_path, parse_program},
    host::HostName,
    model::{Access, Ask, Expect},
    pattern::{ALTERNATIVES, PATTERN_BYTES, PatternError},
    profile::{CompiledProfile, DEFAULT_ID, List, LiteralPath, Naming, RuleInfo, Stats},
    set::{
        BUILTIN_FILE, Loaded, PolicySet, UNKNOWN_PROFILE, list_dir, load_dir, load_file,
        load_profile, load_text,
    },
    source::SOURCE_BYTES,
    testing::{ProfileTest, TestResult, run as run_test},
};
