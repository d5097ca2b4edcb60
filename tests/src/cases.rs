//! Every case, by subject.

mod api;
mod bad_input;
mod broken;
mod budget;
mod commands;
pub mod conformance;
mod exec;
mod file;
mod file_alias;
mod file_edge;
mod judged;
mod label;
mod life;
mod load;
mod net;
mod net_lock;
mod policy;
mod process;
mod reload;
mod run;
mod service;
mod tail;
mod tree;
mod unix;

use crate::scene::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(api::cases());
    cases.extend(bad_input::cases());
    cases.extend(broken::cases());
    cases.extend(budget::cases());
    cases.extend(conformance::cases());
    cases.extend(commands::cases());
    cases.extend(exec::cases());
    cases.extend(file::cases());
    cases.extend(file_alias::cases());
    cases.extend(file_edge::cases());
    cases.extend(label::cases());
    cases.extend(life::cases());
    cases.extend(load::cases());
    cases.extend(net::cases());
    cases.extend(net_lock::cases());
    cases.extend(policy::cases());
    cases.extend(process::cases());
    cases.extend(reload::cases());
    cases.extend(run::cases());
    cases.extend(service::cases());
    cases.extend(tail::cases());
    cases.extend(tree::cases());
    cases.extend(unix::cases());
    cases
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::all;

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
