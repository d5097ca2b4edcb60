//! Every case, by subject.

mod api;
pub mod approve;
mod approve_daemon;
mod arguments;
pub mod attacks;
mod bad_input;
mod broken;
pub mod budget;
mod chain;
mod commands;
pub mod conformance;
mod entry;
mod exec;
mod file;
mod file_alias;
mod file_edge;
mod file_look;
mod file_move;
mod file_reach;
mod gained;
mod held;
mod hold;
mod hold_changed;
mod hold_programs;
mod hosts;
mod judged;
mod label;
mod life;
mod limits;
mod load;
mod map;
mod metadata;
mod metadata_names;
mod net;
mod net_kinds;
mod net_lock;
mod net_own;
mod net_route;
mod net_sctp;
mod net_unasked;
mod net_unasked_kinds;
pub mod others;
mod policy;
mod process;
mod reload;
mod ring;
mod run;
mod seen;
mod service;
mod stalled;
mod system;
mod tail;
mod tree;
mod unix;
mod victim;
mod why;
mod work;

use std::path::Path;

use crate::scene::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = written();
    cases.extend(attacks::cases());
    cases.extend(conformance::cases());
    cases
}

/// The case of this name. Of those that are data only what is needed is read, which an emulated machine does slowly.
pub fn find(name: &str) -> Option<Case> {
    let data = match name.split_once("::") {
        Some(("attack", id)) => attacks::of(id).into_iter().collect(),
        Some(("conformance", _)) => conformance::cases(),
        _ => written(),
    };
    data.into_iter().find(|case| case.name == name)
}

/// Where cases that are data lie: in a guest, or where this was built.
fn data(guest: &'static str, built: &'static str) -> &'static Path {
    let here = Path::new(guest);
    if here.exists() {
        here
    } else {
        Path::new(built)
    }
}

/// Those that are written in Rust.
fn written() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(api::cases());
    cases.extend(approve::cases());
    cases.extend(approve_daemon::cases());
    cases.extend(arguments::cases());
    cases.extend(bad_input::cases());
    cases.extend(broken::cases());
    cases.extend(chain::cases());
    cases.extend(budget::cases());
    cases.extend(commands::cases());
    cases.extend(entry::cases());
    cases.extend(exec::cases());
    cases.extend(file::cases());
    cases.extend(file_alias::cases());
    cases.extend(file_edge::cases());
    cases.extend(file_look::cases());
    cases.extend(file_move::cases());
    cases.extend(file_reach::cases());
    cases.extend(gained::cases());
    cases.extend(held::cases());
    cases.extend(hold::cases());
    cases.extend(hold_changed::cases());
    cases.extend(hold_programs::cases());
    cases.extend(hosts::cases());
    cases.extend(label::cases());
    cases.extend(life::cases());
    cases.extend(limits::cases());
    cases.extend(load::cases());
    cases.extend(map::cases());
    cases.extend(metadata::cases());
    cases.extend(metadata_names::cases());
    cases.extend(net::cases());
    cases.extend(net_kinds::cases());
    cases.extend(net_lock::cases());
    cases.extend(net_own::cases());
    cases.extend(net_route::cases());
    cases.extend(net_sctp::cases());
    cases.extend(net_unasked::cases());
    cases.extend(net_unasked_kinds::cases());
    cases.extend(others::cases());
    cases.extend(policy::cases());
    cases.extend(process::cases());
    cases.extend(reload::cases());
    cases.extend(ring::cases());
    cases.extend(run::cases());
    cases.extend(seen::cases());
    cases.extend(service::cases());
    cases.extend(stalled::cases());
    cases.extend(system::cases());
    cases.extend(tail::cases());
    cases.extend(tree::cases());
    cases.extend(unix::cases());
    cases.extend(victim::cases());
    cases.extend(why::cases());
    cases.extend(work::cases());
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Path, all};

    #[test]
    fn no_two_cases_share_a_name_or_a_folder() {
        let cases = all();
        let names: BTreeSet<_> = cases.iter().map(|case| case.name.clone()).collect();
        assert_eq!(names.len(), cases.len());
        let slugs: BTreeSet<_> = cases.iter().map(|case| case.slug()).collect();
        assert_eq!(slugs.len(), cases.len());
    }

    #[test]
    fn every_profile_is_toml() {
        for case in all() {
            for (name, text) in case.profiles(Path::new("/srv/x")) {
                if let Err(error) = text.parse::<toml::Table>() {
                    panic!("{name}: {error}\n{text}");
                }
            }
        }
    }
}
