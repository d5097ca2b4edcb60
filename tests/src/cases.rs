//! Every case, by subject.

mod file;

use crate::scene::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(file::cases());
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
            let profile = case.profile(Path::new("/srv/x"));
            if let Err(error) = profile.parse::<toml::Table>() {
                panic!("{}: {error}\n{profile}", case.name);
            }
        }
    }
}
